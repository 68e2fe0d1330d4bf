"""Ten times what a server can do, for a minute: what is left of its goodput, and what the others are told.

    overload.py --infinity target/release/infinity --model MODEL.gguf [-- --max-queue-delay 1]

Eight clients say roughly what the server can do. From half of that Poisson loads rise by a quarter, --step
(20) seconds each, beyond the peak of its goodput: tokens a second of requests whose first token came within
2 s and that had no gap over 0.5 s. The best of them is offered again for --seconds (60), then --times (10)
as many requests as were ever answered in a second, for as long. A server that is to keep a time to the first token must
refuse who would wait longer: unless options say otherwise it is started with --max-queue-delay 1.

Prints Markdown. Status 1 if the goodput is under --least (0.9) of the peak, a request failed, or a refusal
had no Retry-After.
"""

import argparse
import threading
import time

from server import arguments, report, server, table

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments(parser)
parser.add_argument("--step", type=float, default=20)
parser.add_argument("--seconds", type=float, default=60)
parser.add_argument("--times", type=float, default=10)
parser.add_argument("--least", type=float, default=0.9)
parser.add_argument("--ttft", type=float, default=2.0)
parser.add_argument("--itl", type=float, default=0.5)
parser.add_argument("--prompt-tokens", default="lognormal:64:0.6")
parser.add_argument("--output-tokens", default="lognormal:48:0.6")
args = parser.parse_args()


def offer(server, seed, *load):
    lengths = ["--prompt-tokens", args.prompt_tokens, "--output-tokens", args.output_tokens]
    return report(server.bench(*load, *lengths, "--ttft", args.ttft, "--itl", args.itl, "--seed", seed))[0]


def at_rate(server, rate, seconds, seed):
    return offer(server, seed, "--rate", f"{rate:.3f}", "--duration", seconds)


def most_memory(server, over, most):
    while not over.wait(0.5):
        most.append(server.rss())


def overload(server):
    roughly = offer(server, 1, "--clients", 8, "--duration", args.step, "--requests", 5000)["requests_per_second"]
    goodput = lambda f: f["goodput"]["tokens_per_second"]
    steps = []
    # Over the peak when two in a row are worse than what was there.
    while len(steps) < 3 or max(map(goodput, steps[-2:])) >= max(map(goodput, steps[:-2])):
        steps.append(at_rate(server, roughly / 2 * 1.25 ** len(steps), args.step, 2 + len(steps)))
    peak = at_rate(server, max(steps, key=goodput)["rate"], args.seconds, len(steps) + 2)
    capacity = max(f["requests_per_second"] for f in [*steps, peak])
    before, most, over = server.rss(), [], threading.Event()
    watch = threading.Thread(target=most_memory, args=(server, over, most))
    watch.start()
    crowd = at_rate(server, args.times * capacity, args.seconds, len(steps) + 3)
    over.set()
    watch.join()
    time.sleep(2)
    return steps, peak, crowd, (before, max(most), server.rss())


def main():
    running = server(args, [] if "--max-queue-delay" in args.serve_options else ["--max-queue-delay", "1"])
    try:
        steps, peak, crowd, memory = overload(running)
    finally:
        running.stop()
    p99 = lambda spread: f"{1e3 * spread['p99']:.0f}" if spread else "-"
    failed = lambda f: f["requests"] - f["complete"] - f["refused"]
    head = ["offered, requests/s", "requests", "complete", "refused", "failed", "output tokens/s", "goodput, tokens/s", "within the objective", "TTFT p99, ms", "gap p99, ms", "until refused p99, ms", "generator late p99, ms"]
    row = lambda f: [
        f"{f['rate']:.2f}", f["requests"], f["complete"], f["refused"], failed(f), f"{f['output_tokens_per_second']:.1f}",
        f"{f['goodput']['tokens_per_second']:.1f}", f"{f['goodput']['share']:.0%}", p99(f["ttft"]), p99(f["itl"]), p99(f["refusal"]), p99(f["lateness"]),
    ]
    print(table([head, *map(row, [*steps, peak, crowd])]))
    best = max(f["goodput"]["tokens_per_second"] for f in [*steps, peak])
    share = crowd["goodput"]["tokens_per_second"] / best if best else 0.0
    told = crowd["refused_with_retry_after"]
    print(f"\n- goodput under {args.times:g} times the capacity: {share:.0%} of the peak (at least {args.least:.0%})")
    print(f"- refused: {crowd['refused'] / crowd['requests']:.0%} of the requests, {told} of {crowd['refused']} with Retry-After, p99 {p99(crowd['refusal'])} ms after they were sent; failed: {failed(crowd)}")
    print("- memory: {:.1f} MB before, {:.1f} at most, {:.1f} after".format(*(m / 1e6 for m in memory)))
    raise SystemExit(0 if share >= args.least and not failed(crowd) and told == crowd["refused"] else 1)


main()
