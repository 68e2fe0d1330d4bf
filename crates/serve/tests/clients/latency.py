"""Three figures that no average shows, of a running server: python latency.py BASE_URL [MODEL]

- sharing: the time to the first token of a prompt of 1,000 tokens, and of another that begins with the
  same 1,000, as a share of the first;
- a newcomer: 8 streams, and a prompt of 1,500 tokens that arrives in their midst: the streams' p99 gap
  between tokens over their median, and the newcomer's time to its first token over what it has alone;
- sameness: what the streams say with and without the newcomer.

Standard library alone. Medians of five where a figure is of one request.
"""

import http.client
import json
import random
import statistics
import sys
import threading
import time
from urllib.parse import urlparse

base, model = urlparse(sys.argv[1]), (sys.argv[2:] + ["m"])[0]


def stream(prompt, tokens, on_start=None):
    """Seconds to each token since the request was sent, and the text."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    connection = http.client.HTTPConnection(base.hostname, base.port, timeout=600)
    began = time.perf_counter()
    connection.request("POST", f"{base.path}/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    times, text = [], ""
    for line in response:
        if line.startswith(b"data: ") and b"[DONE]" not in line:
            choices = json.loads(line[6:])["choices"]
            if choices:
                times.append(time.perf_counter() - began)
                text += choices[0]["text"]
                if on_start and len(times) == 1:
                    on_start()
    return times, text


def prompt(tokens, seed):
    """Token ids that no other seed has in this order."""
    draw = random.Random(seed)
    return [draw.randrange(100, 1600) for _ in range(tokens)]


def first(ids):
    return stream(ids, 2)[0][0]


def sharing():
    ratios = []
    for k in range(5):
        shared = prompt(1000, 1000 + k)
        cold = first(shared + prompt(16, 2000 + k))
        warm = first(shared + prompt(16, 3000 + k))
        ratios.append(warm / cold)
    return statistics.median(ratios)


def newcomer():
    alone = statistics.median(first(prompt(1500, 4000 + k)) for k in range(3))
    calm = [None] * 8
    crowded = [None] * 8
    arrived = []
    for results, disturb in ((calm, False), (crowded, True)):
        begun = threading.Barrier(9)
        def run(i):
            results[i] = stream(prompt(64, 5000 + i), 200, on_start=begun.wait)
        threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        begun.wait()
        if disturb:
            time.sleep(2)
            arrived.append(first(prompt(1500, 6000)))
        for thread in threads:
            thread.join()
    gaps = sorted(b - a for times, _ in crowded for a, b in zip(times, times[1:]))
    p99 = gaps[int(len(gaps) * 0.99)]
    same = all(a[1] == b[1] for a, b in zip(calm, crowded))
    return p99, statistics.median(gaps), arrived[0], alone, same


stream(prompt(32, 1), 8)
share = sharing()
print(f"sharing: the second request's first token takes {share:.1%} of the first's (at most 10 %)")
p99, median, there, alone, same = newcomer()
print(f"8 streams: p99 gap {1e3 * p99:.0f} ms, median {1e3 * median:.0f} ms: {p99 / median:.2f} x (at most 3 x)")
print(f"a prompt of 1,500 tokens among them: first token after {there:.2f} s, alone {alone:.2f} s: {there / alone:.2f} x (at most 2 x)")
print("the streams say the same with it and without" if same else "the streams say something else with it")
sys.exit(0 if same else 1)
