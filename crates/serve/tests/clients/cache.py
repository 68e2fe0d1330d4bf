"""What a prefix cache costs that finds nothing, and what blocks waste.

    cache.py --infinity target/release/infinity --model MODEL.gguf [--rounds 10]

Prompts have nothing in common, so the cache finds nothing: in each round the same load goes to a server
with it and to one with --no-prefix-cache, in turns; what it costs is the median over rounds of the ratio of
their throughput. The servers' memory for keys and values is small, and as many requests come first that are
not counted: each block has been used before then, and the cache must evict one for each that it gives. (A
server with much memory first uses all of it with the cache, and only as much as it needs without; what the
system takes to give it the pages is no cost of the cache.) Then lengths as in ShareGPT go to a server whose block map is watched: waste is the share of the
slots of used blocks that hold no token.

Prints Markdown. Status 1 if the cache costs more than --most-cost (0.01), or waste is over --most-waste (0.04).
"""

import argparse
import statistics

from server import Server, report, table

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--infinity", default="target/release/infinity", help="the program, also for the load")
parser.add_argument("--model", required=True)
parser.add_argument("--rounds", type=int, default=10)
parser.add_argument("--clients", type=int, default=8)
parser.add_argument("--requests", type=int, default=64)
parser.add_argument("--kv-memory", default="64MB")
parser.add_argument("--watch-requests", type=int, default=200)
parser.add_argument("--most-cost", type=float, default=0.01)
parser.add_argument("--most-waste", type=float, default=0.04)
args = parser.parse_args()


def load(server, seed, requests, *lengths):
    options = ["--clients", args.clients, "--requests", requests, "--seed", seed]
    return server.bench(*options, *lengths)


def throughput(options, seed):
    server = Server(args.infinity, args.model, [*options, "--kv-memory", args.kv_memory])
    lengths = ["--prompt-tokens", "64..192", "--output-tokens", "32..64"]
    try:
        report(load(server, seed + args.rounds, args.requests, *lengths))
        figures = report(load(server, seed, args.requests, *lengths))[0]
    finally:
        server.stop()
    assert figures["complete"] == figures["requests"] and not figures["cached_share"], figures
    return figures["requests_per_second"]


def cost():
    ways = {"with": [], "without": ["--no-prefix-cache"]}
    rates = {way: [] for way in ways}
    for round in range(args.rounds):
        for way in sorted(ways, reverse=round % 2 == 1):
            rates[way].append(throughput(ways[way], round))
    rows = [["prefix cache", "requests/s, median", "least", "most"]]
    rows += [[way, *(f"{f(r):.3f}" for f in (statistics.median, min, max))] for way, r in rates.items()]
    print(table(rows))
    paired = statistics.median(a / b for a, b in zip(rates["with"], rates["without"]))
    return 1 - paired


def waste():
    server = Server(args.infinity, args.model)
    samples = []
    try:
        bench = load(server, 1, args.watch_requests, "--prompt-tokens", "sharegpt", "--output-tokens", "sharegpt")
        while bench.poll() is None:
            view = server.blocks()
            if view["running"]:
                samples.append(view["waste"])
        report(bench)
    finally:
        server.stop()
    return samples


lost = cost()
print(f"\n- a cache that finds nothing costs {lost:.1%} of the throughput, median of {args.rounds} pairs (at most {args.most_cost:.0%})")
samples = waste()
mean = statistics.mean(samples)
print(f"- waste with lengths as in ShareGPT: {mean:.1%} on average, {max(samples):.1%} at most, of {len(samples)} samples (at most {args.most_waste:.0%} on average)")
raise SystemExit(0 if lost <= args.most_cost and mean <= args.most_waste else 1)
