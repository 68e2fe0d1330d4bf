"""Schemathesis with the published OpenAI description against a running server.

python fuzz_api.py BASE_URL OPENAPI [EXAMPLES]: each operation that the server has is called with that
many examples (500), negative ones and NULs among them. No answer may be a 5xx, every answer has the
description's shape, and every event of a stream is a valid chunk.
"""

import json
import os
import sys

import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

base_url, description = sys.argv[1], sys.argv[2]
examples = int(sys.argv[3]) if len(sys.argv) > 3 else 500
OPERATIONS = {
    ("post", "/chat/completions"),
    ("post", "/completions"),
    ("post", "/embeddings"),
    ("post", "/responses"),
    ("get", "/models"),
    ("get", "/models/{model}"),
}

with open(description) as file:
    raw = yaml.safe_load(file) if description.endswith((".yaml", ".yml")) else json.load(file)
raw["paths"] = {
    path: {method: op for method, op in item.items() if (method, path) in OPERATIONS}
    for path, item in raw["paths"].items()
    if any(p == path for _, p in OPERATIONS)
}
raw["servers"] = [{"url": base_url}]
raw.pop("security", None)
schema = schemathesis.openapi.from_dict(raw)
schema.config.update(base_url=base_url)
REQUIRED = {"model", "messages", "prompt", "input"}
counts = {}


def run(operation):
    label = f"{operation.method.upper()} {operation.path}"
    counts[label] = {}

    @given(few=st.none() | st.lists(st.integers(0, 99), max_size=3), case=operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], derandomize=True, database=None)
    def check(case, few):
        if isinstance(case.body, dict):
            # A model that there is, and often few fields at once: else nearly all would be refused for
            # one that is not honoured.
            case.body["model"] = "minilm" if "embeddings" in operation.path else "bard"
            if few is not None:
                names = sorted(case.body)
                kept = REQUIRED | {names[i % len(names)] for i in few}
                case.body = {name: value for name, value in case.body.items() if name in kept}
                if "embeddings" not in operation.path:
                    case.body["max_output_tokens" if "responses" in operation.path else "max_tokens"] = 4
        response = case.call(timeout=60, headers={"Authorization": "Bearer none"})
        status = response.status_code
        counts[label][status] = counts[label].get(status, 0) + 1
        assert status < 500 or status == 503, f"{label}: {status} {response.text[:300]}"
        kind = dict((k.lower(), v) for k, v in response.headers.items()).get("content-type", "")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind.startswith("text/event-stream"):
            data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
            assert data and (data[-1] == "[DONE]" or "/responses" in label), data[-1:]
            for event in data:
                if event != "[DONE]":
                    json.loads(event)
        elif status >= 400:
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}, error
        else:
            response.json()

    check()
    print(label, dict(sorted(counts[label].items())), flush=True)


for result in schema.get_all_operations():
    run(result.ok())
print("passed")
