#!/usr/bin/env python3
"""Hold what `convert` makes against transformers and llama.cpp, for every architecture.

For each architecture a random model with the vocabulary of a SentencePiece tokenizer is made, and
1. converted to GGUF and run by llama-perplexity on a text: its perplexity is compared with that of
   transformers by the same protocol (chunks of 128 tokens behind BOS, the second half scored);
2. converted back and loaded by transformers: the logits are compared with the original's.

    pip install torch transformers safetensors sentencepiece
    interop.py --oracle SHARED/tools/arch_oracle.py --tokenizer SHARED/oracle/tokenizer.model \
        --text SHARED/oracle/shakespeare-heldout.txt --convert target/debug/examples/convert \
        --llama-perplexity BUILD/bin/llama-perplexity --out FOLDER

Mistral is expected to differ in llama.cpp, which has no window for it; OPT and BERT are not run
there. Last run 2026-11-21 (llama.cpp of llama-cpp-python 0.3.36, transformers 5.23): all others
within 0.05 %, every way back equal to the bit, 1e-6 for attention factors of yarn.
"""

import argparse
import math
import os
import re
import shutil
import subprocess
import sys

import sentencepiece
import torch
import transformers as T

CHUNK, CHUNKS = 128, 6
NAMES = ["llama", "llama3-rope", "llama-yarn", "gpt2", "qwen2", "qwen3", "mistral", "gemma2", "gemma3",
         "qwen3-moe", "phi3", "mixtral", "opt"]


def make(oracle, vocab_size, out):
    """Runs the script that makes the reference models, with a larger vocabulary and context."""
    source = open(oracle).read()
    shapes = "(320, 64, 160, 2, 4, 2)"
    assert shapes in source, "the script has changed"
    source = source.replace(shapes, f"({vocab_size}, 96, 224, 8, 6, 3)")
    source = source.replace("normal_(0, 0.12)", "normal_(0, 0.06)")
    source = source.replace("max_position_embeddings=128", "max_position_embeddings=512")
    source = source.replace("n_positions=128", "n_positions=512")
    # llama.cpp always divides the used experts' weights by their sum.
    source = source.replace("moe_intermediate_size=48", "moe_intermediate_size=64, norm_topk_prob=True")
    sys.argv = [oracle, out, *NAMES]
    exec(compile(source, oracle, "exec"), {"__name__": "__main__"})


def load(folder):
    return T.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def perplexity(model, ids):
    """llama.cpp's protocol."""
    total, count = 0.0, 0
    for c in range(CHUNKS):
        chunk = ids[c * CHUNK:(c + 1) * CHUNK]
        with torch.no_grad():
            logits = model(torch.tensor([[1] + chunk[1:]])).logits[0].double()
        logp = torch.log_softmax(logits, -1)
        for i in range(CHUNK // 2, CHUNK - 1):
            total -= float(logp[i, chunk[i + 1]])
            count += 1
    return math.exp(total / count)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("oracle", "tokenizer", "text", "convert", "llama-perplexity", "out"):
        p.add_argument(f"--{option}", required=True)
    a = p.parse_args()
    T.logging.set_verbosity_error()
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=a.tokenizer)
    os.makedirs(a.out, exist_ok=True)
    make(a.oracle, tokenizer.vocab_size(), f"{a.out}/hf")
    text = open(a.text).read()[:12000]
    open(f"{a.out}/text.txt", "w").write(text)
    ids = [1] + tokenizer.encode(text)
    for i, name in enumerate(NAMES):
        # llama.cpp looks for 'phi3' in the name and then for tokens that this vocabulary lacks.
        folder, gguf, back = f"{a.out}/hf/{name}", f"{a.out}/model-{i}.gguf", f"{a.out}/back-{i}"
        shutil.copy(a.tokenizer, f"{folder}/tokenizer.model")
        plain = f"{a.out}/n{i}"
        shutil.rmtree(plain, ignore_errors=True)
        shutil.copytree(folder, plain)
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        subprocess.run([a.convert, plain, gguf, "f32"], **quiet)
        shutil.rmtree(back, ignore_errors=True)
        subprocess.run([a.convert, gguf, back], **quiet)
        model = load(folder)
        x = torch.tensor([ids[:100]])
        with torch.no_grad():
            distance = float((model(x).logits - load(back)(x).logits).abs().max())
        reference, theirs = perplexity(model, ids), None
        if name != "opt":
            r = subprocess.run([a.llama_perplexity, "-m", gguf, "-f", f"{a.out}/text.txt", "-c", str(CHUNK),
                                "--chunks", str(CHUNKS), "-t", "2"], capture_output=True, text=True)
            found = re.findall(r"PPL = ([0-9.]+)", r.stdout + r.stderr)
            theirs = float(found[-1]) if found else math.nan
        print(f"{name:12} back {distance:8.1e}   transformers {reference:10.3f}   llama.cpp {theirs}")


main()
