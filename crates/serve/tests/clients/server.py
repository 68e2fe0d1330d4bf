"""A server that is measured from outside: started here or running already, its memory, its open files,
what /metrics and /live say of it, and the load generator against it. Standard library alone."""

import http.client
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from urllib.parse import urlparse


class Server:
    """Started with `infinity serve MODEL` and `options`, or, with `url` and `pid`, one that runs."""

    def __init__(self, infinity, model=None, options=(), url=None, pid=None):
        self.infinity, self.url, self.pid, self.process = infinity, url, pid, None
        if url is None:
            self._start([infinity, "serve", model, "--port", "0", *options])
        self.model = self.json("GET", "/v1/models")["data"][0]["id"]

    def _start(self, command):
        self.log = tempfile.NamedTemporaryFile(mode="w+", suffix=".log")
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log)
        self.pid = self.process.pid
        for _ in range(6000):
            text = open(self.log.name).read()
            found = re.search(r"listening on (http\S+)", text)
            if found and self._ready(found[1]):
                return
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended: {text}")
            time.sleep(0.1)
        raise SystemExit(f"the server does not get ready: {text}")

    def _ready(self, url):
        self.url = url
        try:
            return self.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def stop(self):
        """Ends it, if it was started here, and says whether it ended well."""
        if self.process is None:
            return True
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120) == 0

    def request(self, method, path, body=None, timeout=600):
        """Status and body. A connection of its own, which is closed."""
        place = urlparse(self.url)
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=timeout)
        try:
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def json(self, method, path, body=None):
        status, answer = self.request(method, path, body)
        assert status == 200, f"{path}: {status} {answer[:300]}"
        return json.loads(answer)

    def rss(self):
        """Bytes that are resident, of no file: mapped weights come and go as the system likes."""
        status = open(f"/proc/{self.pid}/status").read()
        return sum(1024 * int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) for kind in ("RssAnon", "RssShmem"))

    def open_files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def metrics(self):
        """Values by name, summed over labels."""
        values = {}
        for line in self.request("GET", "/metrics")[1].decode().splitlines():
            found = re.fullmatch(r"infinity:(\w+)(?:\{.*\})? (\S+)", line)
            if found:
                values[found[1]] = values.get(found[1], 0.0) + float(found[2])
        return values

    def blocks(self):
        """The block map's counts, of all models that are loaded: `used`, `idle` (cached, held by nobody),
        `free`; sequences `running` and `waiting`; and `waste`, the share of used slots without a token."""
        place = urlparse(self.url)
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
        try:
            connection.request("GET", "/live")
            for line in connection.getresponse():
                if line.startswith(b"data: "):
                    view = json.loads(line[6:])
                    counts = {name: view["blocks"][name] for name in ("total", "used", "idle", "free")}
                    return counts | {name: view[name] for name in ("running", "waiting", "waste")}
        finally:
            connection.close()
        raise AssertionError("/live ended")

    def bench(self, *options):
        """The load generator, begun: `report` waits for it."""
        command = [self.infinity, "bench", "--serve", self.url, "--model", self.model, "--json", *map(str, options)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def report(bench):
    """What a load generator found: the figures of its loads."""
    out, errors = bench.communicate()
    assert bench.returncode == 0, errors
    return json.loads(out)["loads"]


def arguments(parser):
    """Which server."""
    parser.add_argument("--infinity", default="target/release/infinity", help="the program, also for the load")
    parser.add_argument("--model", help="what to serve; or --url and --pid of a server that runs")
    parser.add_argument("--url")
    parser.add_argument("--pid", type=int)
    parser.add_argument("serve_options", nargs="*", metavar="-- OPTION", help="further options of infinity serve")


def server(args, options=()):
    if (args.model is None) == (args.url is None) or (args.url is None) != (args.pid is None):
        raise SystemExit("give --model, or --url and --pid")
    return Server(args.infinity, args.model, [*options, *args.serve_options], args.url, args.pid)


def table(rows):
    """Rows of cells as Markdown; the first is the head, columns of numbers to the right."""
    width = len(rows[0])
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---:|" * (width - 1), *lines[1:]])
