"""langchain-openai against a running server: python langchain_client.py BASE_URL [MODEL]"""

import sys

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field

base_url, model = sys.argv[1], (sys.argv[2:] + ["bard"])[0]
chat = ChatOpenAI(base_url=base_url, api_key="none", model=model, max_tokens=16, temperature=0, max_retries=0)
messages = [SystemMessage("Be brief."), HumanMessage("Who goes there?")]
answer = chat.invoke(messages)
assert answer.content and answer.usage_metadata["output_tokens"] <= 16
assert "".join(chunk.content for chunk in chat.stream(messages)) == answer.content
assert [a.content for a in chat.batch([messages, messages])] == [answer.content] * 2


class Person(BaseModel):
    """A person."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=10)
    age: int = Field(ge=0, le=99)


long = chat.model_copy(update={"max_tokens": 200})
for method in ("json_schema", "function_calling"):
    found = long.with_structured_output(Person, method=method, include_raw=True).invoke(messages)
    person = found["parsed"]
    assert isinstance(person, Person), found
text = OpenAI(base_url=base_url, api_key="none", model=model, max_tokens=8, temperature=0, max_retries=0)
assert text.invoke("ROMEO:")
print("passed")
