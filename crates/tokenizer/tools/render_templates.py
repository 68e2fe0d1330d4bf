"""Renders chat templates with Jinja2 as transformers sets it up: the expectations of
tests/templates.rs. Usage: render_templates.py FOLDER_OF_JINJA OUT.json

Source of the settings: transformers/utils/chat_template_utils.py.
"""
import glob, json, os, sys
from datetime import datetime

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("keep"), [], [], body).set_lineno(line)

    def keep(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                    extensions=[Generation, loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda f: datetime(2024, 7, 26).strftime(f)

weather = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather \"now\" <b>&</b> 'soon'\nin a city",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "Città — 市"},
        "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
        "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 14.5},
        "place": {"type": "object", "properties": {"lat": {"type": "number"}},
                  "required": ["lat"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "deep": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        "required": ["city"]},
    "return": {"type": "string"}}}
plain = {"type": "function", "function": {"name": "now", "description": "The time",
         "parameters": {"type": "object", "properties": {}}}}
user = {"role": "user", "content": "  Hello, <b>who</b> are 'you'? 日本 \n"}
system = {"role": "system", "content": "Be terse.\n"}
assistant = {"role": "assistant", "content": "I am a model. "}
call = {"role": "assistant", "content": "", "tool_calls": [{
    "id": "abcDEF123", "type": "function", "function": {
        "name": "get_weather", "arguments": {"city": "Rom \"x\"", "days": 3, "f": 1.5e-7,
                                              "ok": True, "none": None, "l": [1, "a"]}}}]}
calls = {"role": "assistant", "content": "Let me see.", "tool_calls": call["tool_calls"] + [{
    "id": "ghiJKL456", "type": "function", "function": {"name": "now", "arguments": {}}}]}
call_text = {"role": "assistant", "content": None, "tool_calls": [{
    "id": "abcDEF123", "type": "function", "function": {
        "name": "get_weather", "arguments": "{\"city\": \"Rom\"}"}}]}
result = {"role": "tool", "name": "get_weather", "tool_call_id": "abcDEF123",
          "content": "{\"t\": 21}"}
result2 = {"role": "tool", "name": "now", "tool_call_id": "ghiJKL456", "content": "noon"}
think = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
reasoning = {"role": "assistant", "content": "Yes.", "reasoning_content": "hm, well"}
parts = {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "text", "text": "this"}]}
image = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}

cases = {
    "user": dict(messages=[user]),
    "no_prompt": dict(messages=[user], add_generation_prompt=False),
    "system": dict(messages=[system, user]),
    "turns": dict(messages=[system, user, assistant, {"role": "user", "content": "And?"}]),
    "ends_with_assistant": dict(messages=[user, assistant], add_generation_prompt=False),
    "tools": dict(messages=[system, user], tools=[weather, plain]),
    "tools_no_system": dict(messages=[user], tools=[weather]),
    "call": dict(messages=[user, call, result], tools=[weather]),
    "calls": dict(messages=[system, user, calls, result, result2], tools=[weather, plain]),
    "call_then_text": dict(messages=[user, call, result, assistant, user], tools=[weather]),
    "call_text": dict(messages=[user, call_text, result], tools=[weather]),
    "call_without_tools": dict(messages=[user, call, result]),
    "think": dict(messages=[user, think, user]),
    "reasoning": dict(messages=[user, reasoning, user]),
    "no_thinking": dict(messages=[user], enable_thinking=False),
    "thinking": dict(messages=[user, reasoning, user], enable_thinking=True, thinking=True),
    "parts": dict(messages=[parts]),
    "image": dict(messages=[image]),
    "empty": dict(messages=[]),
    "wrong_order": dict(messages=[user, user, assistant]),
    "unknown_role": dict(messages=[{"role": "narrator", "content": "Once"}]),
    "developer": dict(messages=[{"role": "developer", "content": "Be brief."}, user]),
    "documents": dict(messages=[user], documents=[{"title": "A", "text": "b c"}]),
}

rows = []
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.jinja"))):
    name = os.path.basename(path)[:-6]
    try:
        template = env.from_string(open(path, encoding="utf-8").read())
    except jinja2.TemplateError as e:
        print("skipped", name, e)
        continue
    for case, request in cases.items():
        row = {"template": name, "case": case, "add_generation_prompt": True, "tools": None,
               "documents": None, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
               **request}
        row["date_string"] = "26 Jul 2024"
        try:
            row["expected"] = template.render(**json.loads(json.dumps(
                {k: v for k, v in row.items() if k not in ("template", "case")})))
        except Exception as e:  # whatever fails there is an error here
            row["error"] = f"{type(e).__name__}: {e}"
        rows.append(row)
json.dump(rows, open(sys.argv[2], "w"), ensure_ascii=False, indent=0)
print(len(rows), "rows,", sum("error" in r for r in rows), "errors")
