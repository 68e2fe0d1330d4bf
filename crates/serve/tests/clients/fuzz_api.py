"""Schemathesis with the published OpenAI description against a running server.

python fuzz_api.py BASE_URL OPENAPI [EXAMPLES [PATH...]]: each operation that the server has is called with
that many examples (500; fewer where nothing can be varied), of five kinds: as described, as described with
few fields, contradicting the description, of honoured fields alone, and such with one as described among
them. No answer may be a 5xx; every error, every answer and every event of a stream is valid by the
description's schemas; and at least a third of the examples are answered with 200.
"""

import json
import sys
from collections import Counter

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from described import Described
from honoured import BODIES

base_url, description = sys.argv[1], sys.argv[2]
examples = int(sys.argv[3]) if len(sys.argv) > 3 else 500
OPERATIONS = {
    ("post", "/chat/completions"): "CreateChatCompletionResponse",
    ("post", "/completions"): "CreateCompletionResponse",
    ("post", "/embeddings"): "CreateEmbeddingResponse",
    ("post", "/responses"): "Response",
    ("get", "/models"): "ListModelsResponse",
    ("get", "/models/{model}"): "Model",
}
KINDS = ["described", "few", "negative", "honoured and one", *4 * ["honoured"]]
REQUIRED = {"model", "messages", "prompt", "input"}
# What bounds an answer, which else goes on to the end of the context.
LIMITS = {"/chat/completions": "max_completion_tokens", "/completions": "max_tokens", "/responses": "max_output_tokens"}

with open(description) as file:
    raw = json.load(file)
described = Described(raw)
raw["paths"] = {
    path: {method: operation for method, operation in item.items() if (method, path) in OPERATIONS}
    for path, item in raw["paths"].items()
    if any(p == path for _, p in OPERATIONS)
}
raw["servers"] = [{"url": base_url}]
raw.pop("security", None)
schema = schemathesis.openapi.from_dict(raw)
schema.config.update(base_url=base_url)
# A stream is read to its end; by default only its first events are.
schema.config.max_stream_events = 10**6


def body_of(kind, generated, draw, path):
    """A body of that kind; `generated` follows the description or contradicts it."""
    if path not in BODIES or kind == "negative" or not isinstance(generated, dict):
        return generated
    # A model that there is: else all would be refused for the one that is not.
    always = {"model": "minilm"} if path == "/embeddings" else {"model": "bard", LIMITS[path]: draw(st.integers(1, 16))}
    if kind == "described":
        return always | generated | {"model": always["model"]}
    some = draw(st.lists(st.sampled_from(sorted(generated)), max_size=3)) if generated else []
    if kind == "few":
        # All fields together nearly always hold one that is not honoured.
        return {name: value for name, value in generated.items() if name in REQUIRED or name in some} | always
    others = {name: generated[name] for name in some[:1]} if kind == "honoured and one" else {}
    return draw(BODIES[path]) | others | {"model": always["model"]}


def run(operation):
    path, method = operation.path, operation.method
    seen = Counter()

    @st.composite
    def cases(draw):
        kind = draw(st.sampled_from(KINDS))
        mode = schemathesis.GenerationMode.NEGATIVE if kind == "negative" else schemathesis.GenerationMode.POSITIVE
        case = draw(operation.as_strategy(generation_mode=mode))
        case.body = body_of(kind, case.body, draw, path)
        if kind == "honoured" and case.path_parameters:
            case.path_parameters["model"] = draw(st.sampled_from(["bard", "minilm"]))
        return kind, case

    @given(drawn=cases())
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], derandomize=True, database=None)
    def check(drawn):
        kind, case = drawn
        response = case.call(timeout=600, headers={"Authorization": "Bearer none"})
        status, content_type = response.status_code, response.headers.get("content-type", [""])[0]
        streams = content_type.startswith("text/event-stream")
        seen[f"{status} stream" if streams else str(status)] += 1
        at = f"{method.upper()} {path} {json.dumps(case.body, default=repr)[:2000]}: {status}"
        # One client alone is never too many: it is not told to come again later.
        assert status < 500 and status != 429, f"{at} {response.text[:500]}"
        try:
            if streams:
                described.check_stream(path, response.text)
            elif status == 200:
                described.check(OPERATIONS[method, path], response.json())
            else:
                described.check("ErrorResponse", response.json())
        except (AssertionError, KeyError, ValueError) as error:
            raise AssertionError(f"{at} {error!r}") from error

    check()
    label = f"{method.upper()} {path}"
    print(label, dict(sorted(seen.items())), flush=True)
    answered = seen["200"] + seen["200 stream"]
    assert 3 * answered >= seen.total(), f"{label}: only {answered} of {seen.total()} were answered"


only = sys.argv[4:]
for result in schema.get_all_operations():
    operation = result.ok()
    if not only or operation.path in only:
        run(operation)
print("passed")
