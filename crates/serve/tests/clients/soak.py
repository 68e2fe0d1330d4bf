"""A long mixed load with clients that go away, and what is left of it in the server.

    soak.py --infinity target/release/infinity --model MODEL.gguf --minutes 30

Three loads at once, at --load (0.7) of what the server can do together: completions of which half share
a prefix, chats, and requests of all that is unusual (several answers, beams, schemas, log-probabilities,
hang-ups). A share of the clients (--cancel-fraction, 0.2) go away at a random point. Every --every (10)
seconds memory, open files, blocks and requests are sampled. Then the load ends and it must be as before:
no request, no block that a sequence holds (what the prefix cache keeps is idle), as many open files. The
slope of the memory is that of a line through the second half's samples, with its standard error.

Prints Markdown. Status 1 if something is left, a request failed, or the memory grows: by more than
--most-growth MB/h, beyond three standard errors.
"""

import argparse
import json
import os
import random
import threading
import time
from collections import Counter

from server import arguments, report, server, table

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments(parser)
parser.add_argument("--minutes", type=float, default=30)
parser.add_argument("--load", type=float, default=0.7)
parser.add_argument("--cancel-fraction", type=float, default=0.2)
parser.add_argument("--every", type=float, default=10)
parser.add_argument("--most-growth", type=float, default=4.0, metavar="MB/H")
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--samples", help="write all samples there, as JSON lines")
args = parser.parse_args()

here = os.path.dirname(os.path.abspath(__file__))
SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
COMPLETIONS = ["--prompt-tokens", "lognormal:64:0.8", "--output-tokens", "lognormal:48:0.6", "--shared-prefix", "48", "--shared-fraction", "0.5"]
CHATS = ["--endpoint", "chat", "--prompt-tokens", "lognormal:48:0.6", "--output-tokens", "lognormal:32:0.6"]
UNUSUAL = [
    {"n": 4, "temperature": 1},
    {"n": 2, "best_of": 4, "use_beam_search": True},
    {"guided_json": SCHEMA},
    {"guided_regex": "[a-z]{3,9}( [a-z]{3,9}){0,4}"},
    {"logprobs": 5, "echo": True},
    {"prompt_logprobs": 2},
    {"stop": ["e", "the"], "temperature": 1},
    {"stream": True, "n": 3, "temperature": 1},
    {"prompt": ["ROMEO:", "JULIET:", "NURSE:"]},
    {"temperature": -1},
    {"guided_json": {"type": "nonsense"}},
]


def unusual(server, until, seen):
    """One after another, with pauses; some do not wait for their answer."""
    rng = random.Random(args.seed)
    while time.monotonic() < until:
        body = {"model": server.model, "prompt": "".join(rng.choices("abcde ", k=40)), "max_tokens": 24} | rng.choice(UNUSUAL)
        leaves = rng.random() < args.cancel_fraction
        try:
            status, _ = server.request("POST", "/v1/completions", body, timeout=rng.uniform(0.01, 0.3) if leaves else 600)
            seen[status] += 1
        except TimeoutError:
            seen["cancelled" if leaves else "timed out"] += 1
        time.sleep(rng.expovariate(2))


def capacity(server, options):
    """Requests a second that eight clients get answered."""
    return report(server.bench("--clients", 8, "--duration", 8, "--requests", 2000, "--seed", args.seed + 1, *options))[0]["requests_per_second"]


def sample(server, began):
    # Before anything is asked, which takes a connection.
    open_files = server.open_files()
    values = server.metrics()
    blocks = server.blocks()
    return {
        "seconds": time.monotonic() - began,
        "rss": server.rss(),
        "open_files": open_files,
        "running": values["num_requests_running"],
        "waiting": values["num_requests_waiting"],
        "used": blocks["used"],
        "idle": blocks["idle"],
        "generated": values["generation_tokens_total"],
    }


def rest(server, began, patience=60):
    """A sample of a server that nobody asks, when all is over or does not get so."""
    until = time.monotonic() + patience
    while True:
        blocks = server.blocks()
        if blocks["running"] + blocks["waiting"] + blocks["used"] == 0 or time.monotonic() > until:
            # Connections are closed a moment after their last byte.
            time.sleep(2)
            return sample(server, began)
        time.sleep(0.5)


def slope(samples):
    """Bytes a second of a least-squares line through `rss`, and its standard error."""
    n = len(samples)
    if n < 3:
        return float("nan"), float("nan")
    x, y = [s["seconds"] for s in samples], [s["rss"] for s in samples]
    mean_x, mean_y = sum(x) / n, sum(y) / n
    spread = sum((a - mean_x) ** 2 for a in x)
    b = sum((a - mean_x) * (c - mean_y) for a, c in zip(x, y)) / spread
    left = sum((c - mean_y - b * (a - mean_x)) ** 2 for a, c in zip(x, y))
    return b, (left / (n - 2) / spread) ** 0.5


def soak(server):
    """The state before, samples, the state after, and what the loads say."""
    began = time.monotonic()
    rates = [args.load / 2 * capacity(server, options) for options in (COMPLETIONS, CHATS)]
    before = rest(server, began)
    began, seconds = time.monotonic(), 60 * args.minutes
    seen, samples = Counter(), []
    thread = threading.Thread(target=unusual, args=(server, began + seconds, seen))
    thread.start()
    loads = []
    for number, (rate, options) in enumerate(zip(rates, (COMPLETIONS, CHATS))):
        more = ["--rate", f"{rate:.3f}", "--duration", seconds, "--cancel-fraction", args.cancel_fraction, "--seed", args.seed + 2 + number]
        loads.append(server.bench(*more, *options))
    while time.monotonic() < began + seconds:
        samples.append(sample(server, began))
        time.sleep(max(0, min(began + len(samples) * args.every, began + seconds) - time.monotonic()))
    thread.join()
    figures = [report(load)[0] for load in loads]
    return before, samples, rest(server, began), figures, seen


def main():
    chat_template = ["--chat-template", os.path.join(here, "chat.jinja")]
    running = server(args, chat_template)
    try:
        before, samples, after, figures, seen = soak(running)
    finally:
        ended_well = running.stop()
    if args.samples:
        with open(args.samples, "w") as file:
            file.writelines(json.dumps(s) + "\n" for s in [before, *samples, after])
    growth, error = (x * 3600 / 1e6 for x in slope(samples[len(samples) // 2 :]))
    mb = lambda s: f"{s['rss'] / 1e6:.1f}"
    row = lambda name, s: [name, mb(s), s["open_files"], s["used"], s["idle"], f"{s['running']:.0f}", f"{s['waiting']:.0f}", f"{s['generated']:.0f}"]
    some = samples[:: max(1, len(samples) // 12)]
    print(table([
        ["minute", "memory, MB", "open files", "blocks used", "blocks cached", "running", "waiting", "tokens generated"],
        row("before", before), *(row(f"{s['seconds'] / 60:.1f}", s) for s in some), row("after", after),
    ]))
    print()
    failed = [f["requests"] - f["complete"] - f["refused"] - f["cancelled"] for f in figures]
    for name, of, lost in zip(("completions", "chats"), figures, failed):
        print(f"- {name}: {of['requests']} requests at {of['rate']:.2f} a second: {of['complete']} complete, {of['cancelled']} cancelled by the client, {of['refused']} refused, {lost} failed")
        for kind, what in of["incomplete"].items():
            print(f"  - {what['requests']} x {kind}: {what['example'] or ''}")
    print("- unusual requests: " + ", ".join(f"{n} x {status}" for status, n in sorted(seen.items(), key=str)))
    print(f"- memory over the second half: {growth:+.2f} MB/h, standard error {error:.2f}; from before to after {(after['rss'] - before['rss']) / 1e6:+.1f} MB")
    wrong = [
        what
        for what, is_wrong in [
            ("blocks are in use", after["used"] != 0),
            ("requests are there", after["running"] + after["waiting"] != 0),
            ("files are open", after["open_files"] > before["open_files"]),
            ("requests failed", any(failed) or "timed out" in seen or any(isinstance(s, int) and s >= 500 for s in seen)),
            ("memory grows", growth - 3 * error > args.most_growth),
            ("the server did not end well", not ended_well),
        ]
        if is_wrong
    ]
    print("- " + ("; ".join(wrong) if wrong else "nothing is left: no request, no block in use, open files as before"))
    raise SystemExit(1 if wrong else 0)


main()
