"""Trains small tokenizers of every kind and writes what Hugging Face's `tokenizers` encodes with
them: the fixtures of tests/agreement.rs. Usage: train_tokenizers.py TEXT OUT_FOLDER
"""
import json, os, random, sys

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

text, out = sys.argv[1:]
corpus = open(text, encoding="utf-8").read()[:400_000].split("\n")
corpus += ["Füße naïve café 日本語 テキスト 한국어 Привет мир 🙂 12345"] * 20

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK3 = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
             r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]


def byte_level(splits, digits=False, use_regex=False):
    t = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Split(Regex(s), "isolated") for s in splits]
    steps += [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex))
    t.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    t.train_from_iterator(corpus, trainer)
    t.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return t


def spm_bpe(prefix):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()] + strip)
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special + [f"<0x{b:02X}>" for b in range(256)],
                                  show_progress=False)
    t.train_from_iterator(corpus, trainer)
    file = json.loads(t.to_str())
    file["added_tokens"] = [a for a in file["added_tokens"] if a["content"] in special]
    t = Tokenizer.from_str(json.dumps(file))
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return t


def wordpiece():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
                                        show_progress=False)
    t.train_from_iterator(corpus, trainer)
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return t


def unigram():
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=600, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"],
                                      show_progress=False)
    t.train_from_iterator(corpus, trainer)
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return t


random.seed(7)
texts = ["", " ", "  ", "Hello World", "don't WE'LL he's", "1 12 123 1234567", "a\n\nb\n \n  c\t\td", "Füße e\u0301 naïve",
         "日本語テキスト漢字", "한국어 Привет", "🙂🦙 ½", "snake_case camelCase HTTPServer", "x=1+2;//y\n/\n", "  lead trail  ",
         "<|im_end|> <think> </s> [SEP]", "...!!! (a|b) [c]", "\u00a0nbsp\u3000wide", "a" * 50, "Zebra quartz\r\nline"]
pool = "abcdeXYZ 019.,'!\n\té日한П🙂_-/|<>" + "  the and"
texts += ["".join(random.choice(pool) for _ in range(random.randint(1, 40))) for _ in range(40)]

made = {"gpt2": byte_level([], use_regex=True), "llama3": byte_level([LLAMA3]), "qwen2": byte_level([QWEN2]),
        "gpt4o": byte_level([GPT4O]), "starcoder": byte_level([], digits=True, use_regex=True),
        "deepseek3": byte_level(DEEPSEEK3), "llama": spm_bpe(True), "gemma": spm_bpe(False),
        "bert": wordpiece(), "t5": unigram()}
os.makedirs(out, exist_ok=True)
expected = {}
for name, t in made.items():
    os.makedirs(f"{out}/{name}", exist_ok=True)
    with open(f"{out}/{name}/tokenizer.json", "w", encoding="utf-8") as f:
        f.write(t.to_str())
    config = {"llama": ("<s>", "</s>"), "gemma": ("<s>", "</s>"), "bert": ("[CLS]", "[SEP]"), "t5": (None, "</s>")}
    bos, eos = config.get(name, ("<|endoftext|>", "<|im_end|>"))
    json.dump({k: v for k, v in {"bos_token": bos, "eos_token": eos}.items() if v}, open(f"{out}/{name}/tokenizer_config.json", "w"))
    rows = []
    for x in texts:
        ids = t.encode(x, add_special_tokens=True).ids
        t.encode_special_tokens = True
        plain = t.encode(x, add_special_tokens=False).ids
        t.encode_special_tokens = False
        rows.append({"text": x, "with_special": ids, "plain": plain, "decoded": t.decode(plain)})
    expected[name] = rows
json.dump(expected, open(f"{out}/expected.json", "w", encoding="utf-8"), ensure_ascii=False)
