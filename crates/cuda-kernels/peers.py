"""What PyTorch decodes a second on the same GPU: the shape of Llama 3 8B, random weights, bf16 and the int4 kernel.

A step is captured as a CUDA graph, as gpt-fast does it (https://pytorch.org/blog/accelerating-generative-ai-2/), but
written out, without torch.compile: products by cuBLAS or `_weight_int4pack_mm` (groups of 128), attention by
`scaled_dot_product_attention` over a cache of fixed length. Prints a line a case, beside the floor by the bytes of
weights and cache over the bandwidth of a copy, and our figures over it: those of `infinity bench --csv` in the folder
RESULTS for the same batch and depth.

    peers.py [--batch 1,8,32,128] [--depth 512] [--layers 32] [--ours RESULTS]
"""

import argparse
import csv
from pathlib import Path

import torch
import torch.nn.functional as F

# What of ours has as many bits a weight, by name.
OURS = {"bf16": ["BF16"], "int4": ["Q4_0", "Q4_K"]}

HIDDEN, INNER, HEADS, KV_HEADS, HEAD, VOCABULARY = 4096, 14336, 32, 8, 128, 128256
GROUP = 128


def bf16(rows, cols):
    weight = torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16) * cols**-0.5
    return (lambda x: F.linear(x, weight)), 2 * rows * cols


def int4(rows, cols):
    packed = torch.randint(0, 256, (rows, cols // 2), device="cuda", dtype=torch.uint8)
    try:
        weight = torch._convert_weight_to_int4pack(packed, 8)
    except RuntimeError:  # before PyTorch 2.5: a number an int32
        weight = torch._convert_weight_to_int4pack(
            torch.randint(0, 16, (rows, cols), device="cuda", dtype=torch.int32), 8
        )
    scales = torch.full((cols // GROUP, rows, 2), 0.001, device="cuda", dtype=torch.bfloat16)

    def product(x):
        return torch.ops.aten._weight_int4pack_mm(x, weight, GROUP, scales)

    return product, rows * cols // 2 + scales.numel() * 2


class Model:
    def __init__(self, linear, layers, batch, depth, room):
        self.bytes, self.layers = 0, []
        for _ in range(layers):
            shapes = [
                ((HEADS + 2 * KV_HEADS) * HEAD, HIDDEN),
                (HIDDEN, HEADS * HEAD),
                (2 * INNER, HIDDEN),
                (HIDDEN, INNER),
            ]
            self.layers.append([self.counted(linear(*shape)) for shape in shapes])
        self.output = self.counted(bf16(VOCABULARY, HIDDEN))
        self.embedding = torch.randn(VOCABULARY, HIDDEN, device="cuda", dtype=torch.bfloat16)
        self.norm = torch.ones(HIDDEN, device="cuda", dtype=torch.bfloat16)
        cache = (layers, 2, batch, KV_HEADS, room, HEAD)
        self.cache = torch.zeros(cache, device="cuda", dtype=torch.bfloat16)
        self.token = torch.zeros(batch, device="cuda", dtype=torch.long)
        self.position = torch.full((1,), depth, device="cuda", dtype=torch.long)
        self.slots = torch.arange(room, device="cuda")
        self.frequencies = 500000.0 ** (-torch.arange(0, HEAD, 2, device="cuda") / HEAD)

    def counted(self, layer):
        product, size = layer
        self.bytes += size
        return product

    def turned(self, x):
        angles = self.position * self.frequencies
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        low, high = x.chunk(2, -1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    def step(self):
        batch = self.token.numel()
        x = self.embedding[self.token]
        seen = (self.slots <= self.position)[None, None, None]
        for layer, (qkv, out, gate_up, down) in enumerate(self.layers):
            parts = qkv(F.rms_norm(x, (HIDDEN,), self.norm)).view(batch, -1, 1, HEAD)
            q, k, v = parts.split([HEADS, KV_HEADS, KV_HEADS], 1)
            keys, values = self.cache[layer]
            keys.index_copy_(2, self.position, self.turned(k))
            values.index_copy_(2, self.position, v)
            mixed = F.scaled_dot_product_attention(
                self.turned(q), keys, values, attn_mask=seen, enable_gqa=True
            )
            x = x + out(mixed.reshape(batch, HIDDEN))
            gate, up = gate_up(F.rms_norm(x, (HIDDEN,), self.norm)).chunk(2, -1)
            x = x + down(F.silu(gate) * up)
        self.token.copy_(self.output(F.rms_norm(x, (HIDDEN,), self.norm)).argmax(-1))
        self.position += 1


def seconds(work, repetitions):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repetitions):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / repetitions


def copy_bandwidth():
    a = torch.ones(256 << 20, device="cuda", dtype=torch.uint8)
    b = torch.empty_like(a)
    b.copy_(a)
    return 2 * a.numel() / seconds(lambda: b.copy_(a), 50)


def ours(folder, weights, batch, depth):
    """Our tokens a second, if they were measured."""
    file = Path(folder) / f"llama-3-8b-{weights}.csv"
    what = f"decode {batch} at depth {depth}" if batch > 1 else f"decode at depth {depth}"
    if not file.exists():
        return None
    with file.open(newline="") as lines:
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        return next((float(row["tokens_per_second"]) for row in rows if row["what"] == what), None)


def measure(name, linear, batch, args, bandwidth):
    warm_up, steps = 3, 64
    model = Model(linear, args.layers, batch, args.depth, args.depth + 2 * steps)
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        for _ in range(warm_up):
            model.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model.step()
    graph.replay()
    took = seconds(graph.replay, steps)
    cached = 2 * 2 * args.layers * batch * KV_HEADS * HEAD * (args.depth + steps // 2)
    floor = (model.bytes + cached) / bandwidth
    print(
        f"{name} batch {batch}: {batch / took:.1f} tokens/s, floor {batch / floor:.1f}, "
        f"{100 * floor / took:.0f} % of it",
        flush=True,
    )
    for weights in OURS[name]:
        rate = ours(args.ours, weights, batch, args.depth)
        if rate is not None:
            print(f"  ours in {weights}: {rate:.1f} tokens/s, {rate * took / batch:.2f} times theirs", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", default="1,8,32,128")
    parser.add_argument("--depth", type=int, default=512)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--ours", default="results", metavar="RESULTS")
    args = parser.parse_args()
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, copy {bandwidth / 1e9:.0f} GB/s")
    for name, linear in [("bf16", bf16), ("int4", int4)]:
        for batch in map(int, args.batch.split(",")):
            try:
                with torch.inference_mode():
                    measure(name, linear, batch, args, bandwidth)
            except (RuntimeError, AttributeError, NotImplementedError) as why:
                print(f"{name} batch {batch}: {str(why).splitlines()[0]}")
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
