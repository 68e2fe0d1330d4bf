"""The official Python client against a running server.

Usage: python openai_python.py BASE_URL [--model NAME] [--embedding-model NAME]

The server must have a chat template (see run.sh). Every check is an assertion; the script ends with a
line that says how many passed.
"""

import argparse
import base64
import json
import struct
from typing import Literal

import openai
import pydantic

parser = argparse.ArgumentParser()
parser.add_argument("base_url")
parser.add_argument("--model", default="bard")
parser.add_argument("--embedding-model")
args = parser.parse_args()
client = openai.OpenAI(base_url=args.base_url, api_key="none", max_retries=0)
MODEL = args.model
passed = []


def check(function):
    function()
    passed.append(function.__name__)


def ask(**kwargs):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who goes there?"}]
    return client.chat.completions.create(**{"model": MODEL, "messages": messages, "max_tokens": 16, "temperature": 0, **kwargs})


@check
def models_are_listed():
    names = [m.id for m in client.models.list()]
    assert MODEL in names, names
    assert client.models.retrieve(MODEL).id == MODEL


@check
def chat():
    r = ask()
    assert r.object == "chat.completion" and r.choices[0].message.role == "assistant"
    assert r.choices[0].message.content and r.choices[0].finish_reason in ("stop", "length")
    u = r.usage
    assert u.completion_tokens <= 16 and u.total_tokens == u.prompt_tokens + u.completion_tokens


@check
def streamed_text_is_the_same():
    whole = ask().choices[0].message.content
    parts, usage, finish = [], None, None
    for chunk in ask(stream=True, stream_options={"include_usage": True}):
        assert chunk.object == "chat.completion.chunk"
        if chunk.usage:
            usage = chunk.usage
        for choice in chunk.choices:
            parts.append(choice.delta.content or "")
            finish = choice.finish_reason or finish
    assert "".join(parts) == whole and finish in ("stop", "length") and usage.completion_tokens <= 16


@check
def content_as_parts():
    parts = [{"type": "text", "text": "Who goes "}, {"type": "text", "text": "there?"}]
    r = ask(messages=[{"role": "user", "content": parts}])
    assert r.choices[0].message.content is not None


@check
def four_answers():
    r = ask(n=4, temperature=1.0, seed=3)
    assert [c.index for c in r.choices] == [0, 1, 2, 3]
    assert len({c.message.content for c in r.choices}) > 1
    again = ask(n=4, temperature=1.0, seed=3)
    assert [c.message.content for c in again.choices] == [c.message.content for c in r.choices]


@check
def chat_logprobs():
    r = ask(logprobs=True, top_logprobs=5)
    content = r.choices[0].logprobs.content
    assert len(content) == r.usage.completion_tokens
    assert "".join(t.token for t in content).strip() == r.choices[0].message.content.strip()
    for t in content:
        assert t.logprob <= 0 and len(t.top_logprobs) == 5 and bytes(t.bytes).decode(errors="replace") == t.token
        assert abs(max(o.logprob for o in t.top_logprobs) - t.logprob) < 1e-9, "greedy takes the first"


@check
def completions():
    r = client.completions.create(model=MODEL, prompt="ROMEO:", max_tokens=8, temperature=0)
    assert r.object == "text_completion" and r.choices[0].text
    ids = client.completions.create(model=MODEL, prompt=[5, 6, 7], max_tokens=4, temperature=0)
    assert ids.usage.prompt_tokens == 3
    several = client.completions.create(model=MODEL, prompt=["ROMEO:", "JULIET:"], max_tokens=8, temperature=0, n=2)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == r.choices[0].text


@check
def completions_logprobs_and_echo():
    r = client.completions.create(model=MODEL, prompt="ROMEO: But soft", max_tokens=1, temperature=0, echo=True, logprobs=1)
    c = r.choices[0]
    assert c.text.startswith("ROMEO: But soft")
    l = c.logprobs
    assert l.token_logprobs[0] is None and all(p <= 0 for p in l.token_logprobs[1:])
    assert len(l.tokens) == len(l.text_offset) == r.usage.total_tokens
    assert l.text_offset == sorted(l.text_offset)


@check
def stop_strings():
    free = client.completions.create(model=MODEL, prompt="JULIET:", max_tokens=40, temperature=0).choices[0].text
    stop = free[10:13]
    r = client.completions.create(model=MODEL, prompt="JULIET:", max_tokens=40, temperature=0, stop=[stop])
    assert r.choices[0].text == free[: free.index(stop)] and r.choices[0].finish_reason == "stop"


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["London", "Verona"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@check
def tools():
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        r = ask(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False, max_tokens=120)
        call = r.choices[0].message.tool_calls[0]
        assert call.type == "function" and call.function.name == "get_weather" and call.id
        arguments = json.loads(call.function.arguments)
        assert arguments["city"] in ("London", "Verona") and 1 <= arguments["days"] <= 7
        assert r.choices[0].finish_reason == "tool_calls", r.choices[0]
    pieces, name = [], None
    for chunk in ask(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=120, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            name = call.function.name or name
            pieces.append(call.function.arguments or "")
    assert name == "get_weather" and json.loads("".join(pieces)) == arguments
    answered = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()] if hasattr(call, "model_dump") and call.id else [
            {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
    ]
    assert ask(messages=answered, tools=[WEATHER], tool_choice="none").choices[0].message.tool_calls is None


class Weather(pydantic.BaseModel):
    """The weather in a city"""

    city: Literal["London", "Verona"]
    days: Literal[1, 2, 3]


@check
def strict_tools():
    tool = openai.pydantic_function_tool(Weather, name="get_weather")
    asked = dict(model=MODEL, messages=[{"role": "user", "content": "Weather?"}], tools=[tool], max_tokens=200, temperature=0)
    called = client.chat.completions.parse(**asked, tool_choice="required", parallel_tool_calls=False)
    assert isinstance(called.choices[0].message.tool_calls[0].function.parsed_arguments, Weather)
    # Nothing need be called, and text ends where it would.
    free = client.chat.completions.parse(**asked, stop=["\n"]).choices[0]
    assert free.finish_reason in ("stop", "tool_calls")
    for call in free.message.tool_calls or []:
        assert isinstance(call.function.parsed_arguments, Weather)


@check
def json_schema():
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["name", "age"], "additionalProperties": False}
    r = ask(response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}, max_tokens=200)
    value = json.loads(r.choices[0].message.content)
    assert set(value) == {"name", "age"} and isinstance(value["age"], int) and 0 <= value["age"] <= 99
    r = client.completions.create(model=MODEL, prompt="A date: ", max_tokens=20, extra_body={"structured_outputs": {"regex": "[0-9]{4}-[0-9]{2}"}})
    assert len(r.choices[0].text) == 7 and r.choices[0].text[4] == "-"


@check
def responses():
    r = client.responses.create(model=MODEL, input="Who goes there?", max_output_tokens=16, temperature=0)
    assert r.output_text and r.usage.output_tokens <= 16
    text = ""
    for event in client.responses.create(model=MODEL, input="Who goes there?", max_output_tokens=16, temperature=0, stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == r.output_text


@check
def errors_are_typed():
    def raises(kind, **kwargs):
        try:
            ask(**kwargs)
        except kind as error:
            return error
        raise AssertionError(f"{kwargs} was taken")

    raises(openai.NotFoundError, model="no/such/model")
    assert raises(openai.BadRequestError, temperature=-1).param == "temperature"
    assert raises(openai.BadRequestError, extra_body={"no_such_field": 1}).param == "no_such_field"
    assert raises(openai.BadRequestError, max_tokens=10**6).code == "context_length_exceeded"
    raises(openai.BadRequestError, messages=[])
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    raises(openai.BadRequestError, response_format=bad)


@check
def embeddings():
    if not args.embedding_model:
        return
    texts = ["A king and his horse", "A monarch and his steed", "Integer overflow"]
    r = client.embeddings.create(model=args.embedding_model, input=texts, encoding_format="float")
    vectors = [d.embedding for d in r.data]
    dot = lambda a, b: sum(x * y for x, y in zip(a, b))
    assert dot(vectors[0], vectors[1]) > dot(vectors[0], vectors[2]) and abs(dot(vectors[0], vectors[0]) - 1) < 1e-4
    raw = client.embeddings.with_raw_response.create(model=args.embedding_model, input=texts[0], encoding_format="base64")
    data = base64.b64decode(json.loads(raw.text)["data"][0]["embedding"])
    packed = struct.unpack(f"<{len(data) // 4}f", data)
    assert max(abs(a - b) for a, b in zip(packed, vectors[0])) < 1e-6


@check
def closing_a_stream_is_noticed():
    stream = ask(stream=True, max_tokens=200)
    next(iter(stream))
    stream.close()
    assert ask().choices[0].message.content


print(f"{len(passed)} passed: {', '.join(passed)}")
