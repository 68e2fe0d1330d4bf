"""Requests that the server honours, for Hypothesis: every field that the description and the server have
in common, in any combination that asks for something possible."""

from hypothesis import strategies as st

# All of Unicode, NUL among it, but short: the model has a context of 256 tokens.
text = st.text(max_size=12) | st.sampled_from(["Who goes there?", "O\0Romeo", "\0", "é中🙂"])
filled = st.sampled_from(["Who goes there?", "O\0Romeo", "ROMEO:"]) | st.text(min_size=1, max_size=12)
SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}, "name": {"type": "string", "maxLength": 4}},
    "required": ["yes"],
    "additionalProperties": False,
}
FUNCTION = {"name": "answer", "description": "Answers", "parameters": SCHEMA}
# A function is strict where it must be called; what a model calls of its own accord is not constrained.
STRICT = FUNCTION | {"strict": True}
few_tokens = st.integers(1, 8)
COMMON = {
    "temperature": st.none() | st.integers(0, 2) | st.floats(0, 2),
    "top_p": st.none() | st.floats(0, 1),
    "stream": st.booleans(),
    "user": text,
}
SAMPLING = COMMON | {
    "n": st.none() | st.integers(1, 4),
    "stop": st.none() | filled | st.lists(filled, min_size=1, max_size=4),
    "seed": st.none() | st.integers(-(2**63), 2**63 - 1),
    "presence_penalty": st.none() | st.floats(-2, 2),
    "frequency_penalty": st.none() | st.floats(-2, 2),
    "logit_bias": st.none() | st.dictionaries(st.integers(0, 255).map(str), st.integers(-100, 100), max_size=3),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
}


def _streams(body):
    """`stream_options` is for streams."""
    if body.get("stream_options") is not None and body.get("stream") is not True:
        del body["stream_options"]
    return body


message = st.one_of(
    st.fixed_dictionaries({"role": st.just("user"), "content": text | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": text}), min_size=1, max_size=2)}),
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "assistant"]), "content": text}),
)
TOOL_FIELDS = ["tools", "tool_choice", "parallel_tool_calls"]
response_format = st.sampled_from(
    [{"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}]
)


def _chat(body, wants_tools):
    if wants_tools:
        body.pop("response_format", None)
        must_call = body.get("tool_choice") not in (None, "none", "auto")
        body["tools"] = [{"type": "function", "function": STRICT if must_call else FUNCTION}]
    else:
        for field in TOOL_FIELDS:
            body.pop(field, None)
    if body.get("logprobs") is not True:
        body.pop("top_logprobs", None)
    if "max_tokens" in body:
        body.pop("max_completion_tokens", None)
    else:
        body.setdefault("max_completion_tokens", 60 if wants_tools else 8)
    return _streams(body)


chat = st.builds(
    _chat,
    st.fixed_dictionaries(
        {"messages": st.lists(message, min_size=1, max_size=2)},
        optional=SAMPLING
        | {
            "max_tokens": few_tokens,
            "max_completion_tokens": few_tokens,
            "logprobs": st.none() | st.booleans(),
            "top_logprobs": st.none() | st.integers(0, 20),
            "response_format": response_format,
            "store": st.just(False),
            "tool_choice": st.sampled_from(["none", "auto", "required", {"type": "function", "function": {"name": "answer"}}]),
            "parallel_tool_calls": st.booleans(),
        },
    ),
    st.booleans(),
)


def _completion(body):
    if body.get("best_of") is not None:
        if body.get("stream") is True:
            del body["best_of"]
        else:
            body["best_of"] = max(body["best_of"], body.get("n") or 1)
    if body.get("suffix") is not None:
        # A gap is filled by models that were taught to; bard was not.
        del body["suffix"]
    return _streams(body)


ids = st.lists(st.integers(0, 255), min_size=1, max_size=4)
completion = st.builds(
    _completion,
    st.fixed_dictionaries(
        {"prompt": filled | st.lists(filled, min_size=1, max_size=2) | ids | st.lists(ids, min_size=1, max_size=2), "max_tokens": few_tokens},
        optional=SAMPLING | {"echo": st.none() | st.booleans(), "logprobs": st.none() | st.integers(0, 5), "best_of": st.none() | st.integers(1, 4)},
    ),
)


def _response(body, wants_tools):
    if wants_tools:
        body.pop("text", None)
        must_call = body.get("tool_choice") not in (None, "none", "auto")
        body["tools"] = [{"type": "function", **(STRICT if must_call else FUNCTION)}]
    else:
        for field in TOOL_FIELDS:
            body.pop(field, None)
    if "include" not in body:
        body.pop("top_logprobs", None)
    return body


response = st.builds(
    _response,
    st.fixed_dictionaries(
        {
            "input": text | st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": text}), min_size=1, max_size=2),
            "max_output_tokens": st.integers(1, 60),
        },
        optional=COMMON
        | {
            "instructions": st.none() | text,
            "text": st.sampled_from([{"format": {"type": "text"}}, {"format": {"type": "json_object"}}, {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}}]),
            "tool_choice": st.sampled_from(["none", "auto", "required", {"type": "function", "name": "answer"}]),
            "parallel_tool_calls": st.none() | st.booleans(),
            "include": st.just(["message.output_text.logprobs"]),
            "top_logprobs": st.none() | st.integers(0, 20),
            "metadata": st.none() | st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=2),
            "store": st.just(False),
            "truncation": st.just("disabled"),
        },
    ),
    st.booleans(),
)
embedding = st.fixed_dictionaries(
    {"input": filled | st.lists(filled, min_size=1, max_size=3) | ids | st.lists(ids, min_size=1, max_size=3)},
    optional={"encoding_format": st.sampled_from(["float", "base64"]), "user": text},
)
BODIES = {"/chat/completions": chat, "/completions": completion, "/responses": response, "/embeddings": embedding}
