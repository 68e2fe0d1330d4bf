"""Whether answers are what the published OpenAI description says they are."""

import copy
import json

import jsonschema_rs


class Described:
    """Validators of the schemas in a description's components."""

    def __init__(self, description):
        components = copy.deepcopy(description["components"])
        _allow_null(components)
        _mend(components["schemas"])
        self.components = components
        self.validators = {}
        # By type, since of a hundred alternatives none says why it does not fit.
        self.events = {}
        for reference in components["schemas"]["ResponseStreamEvent"]["anyOf"]:
            name = reference["$ref"].rpartition("/")[2]
            for kind in components["schemas"][name]["properties"]["type"]["enum"]:
                self.events[kind] = name

    def check(self, name, value):
        """Asserts that `value` is a `name`."""
        if name not in self.validators:
            schema = {"$ref": f"#/components/schemas/{name}", "components": self.components}
            self.validators[name] = jsonschema_rs.Draft202012Validator(schema)
        errors = [f"{list(e.instance_path)}: {e.message}" for e in self.validators[name].iter_errors(value)]
        assert not errors, f"not a {name}: {'; '.join(errors)[:1500]}\n{json.dumps(value)[:1500]}"

    def check_stream(self, path, text):
        """Asserts that `text` is a stream of events as the operation at `path` sends them."""
        assert text.endswith("\n\n"), text[-200:]
        # Not `splitlines`, which knows more ends of lines than events have.
        frames = [dict(line.split(": ", 1) for line in frame.split("\n") if not line.startswith(":")) for frame in text[:-2].split("\n\n")]
        frames = [frame for frame in frames if frame]
        if path == "/responses":
            for number, frame in enumerate(frames):
                event = json.loads(frame["data"])
                assert frame["event"] == event["type"] and event["sequence_number"] == number, frame
                self.check(self.events[event["type"]], event)
            assert event["type"] in ("response.completed", "response.incomplete"), event
            return
        chunk = "CreateChatCompletionStreamResponse" if "chat" in path else "CompletionChunk"
        *chunks, done = frames
        assert chunks and done == {"data": "[DONE]"}, frames[-1:]
        for frame in chunks:
            assert set(frame) == {"data"}, frame
            self.check(chunk, json.loads(frame["data"]))


def _allow_null(schema):
    """The description is OpenAPI 3.1 and says `nullable` at places, which is 3.0 for a union with null."""
    if isinstance(schema, list):
        for item in schema:
            _allow_null(item)
    elif isinstance(schema, dict):
        for item in schema.values():
            _allow_null(item)
        if schema.pop("nullable", False) is True:
            whole = dict(schema)
            schema.clear()
            schema["anyOf"] = [whole, {"type": "null"}]


def _mend(schemas):
    """Where the description cannot be met, not by OpenAI's own answers either."""
    choice = schemas["CreateCompletionResponse"]["properties"]["choices"]["items"]["properties"]
    logprobs = choice["logprobs"]["anyOf"][0]["properties"]
    # The first token of an echoed prompt has no probability: there is nothing before it.
    for of_tokens in ("token_logprobs", "top_logprobs"):
        logprobs[of_tokens]["items"] = {"anyOf": [logprobs[of_tokens]["items"], {"type": "null"}]}
    # Chunks are said to have the shape of whole answers, which have a reason to finish; before the last
    # chunk there is none.
    chunk = copy.deepcopy(schemas["CreateCompletionResponse"])
    reason = chunk["properties"]["choices"]["items"]["properties"]["finish_reason"]
    reason["enum"].append(None)
    reason["type"] = ["string", "null"]
    # As in chat, the usage is null but in the last chunk, or not there.
    chunk["properties"]["usage"] = {"anyOf": [chunk["properties"]["usage"], {"type": "null"}]}
    schemas["CompletionChunk"] = chunk
    # With `encoding_format` base64 a vector is a string.
    vector = schemas["Embedding"]["properties"]
    vector["embedding"] = {"anyOf": [vector["embedding"], {"type": "string"}]}
