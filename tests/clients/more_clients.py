"""Use llama-index, litellm, instructor or llm against a server, and print what came back as JSON.

more_clients.py NAME BASE_URL KEY
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

HELLO = "Hello, 地峡!"


class Person(BaseModel):
    name: str
    age: int


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return f"the sum is {a + b}"


PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
ADD = {"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def use_litellm(url: str, key: str) -> dict[str, Any]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    litellm.telemetry = False
    given: dict[str, Any] = {"model": "openai/default", "api_base": url, "api_key": key}
    chunks = litellm.completion(messages=user(HELLO), stream=True, **given)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    asked = user("two and three")
    message = litellm.completion(messages=asked, tools=[ADD], **given).choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": add(**_read(call))}
    told = [*asked, message.model_dump(), result]
    typed = litellm.completion(messages=user("Ada"), response_format=Person, **given)
    vectors = litellm.embedding(input=["one", "two"], encoding_format="float", **given)
    return {
        "chat": _content(litellm.completion(messages=user(HELLO), **given)),
        "stream": "".join(pieces),
        "pieces": len(pieces),
        "tools": _content(litellm.completion(messages=told, tools=[ADD], **given)),
        "structured": json.loads(_content(typed)),
        "response": litellm.responses(input=HELLO, **given).output[0].content[0].text,
        "embeddings": [len(each["embedding"]) for each in vectors.data],
    }


def _content(answer: Any) -> str:
    return answer.choices[0].message.content


def _read(call: Any) -> dict[str, Any]:
    return json.loads(call.function.arguments)


def use_llama_index(url: str, key: str) -> dict[str, Any]:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.tools import FunctionTool
    from llama_index.embeddings.openai import OpenAIEmbedding
    from llama_index.llms.openai_like import OpenAILike

    given: dict[str, Any] = {"api_base": url, "api_key": key, "max_retries": 0}
    model = OpenAILike(
        model="default",
        is_chat_model=True,
        is_function_calling_model=True,
        should_use_structured_outputs=True,
        **given,
    )
    pieces = [part.delta or "" for part in model.stream_chat([ChatMessage(HELLO)])]
    tool = FunctionTool.from_defaults(fn=add)
    called = model.predict_and_call([tool], user_msg="two and three")
    embedder = OpenAIEmbedding(model_name="default", **given)
    return {
        "chat": model.chat([ChatMessage(HELLO)]).message.content,
        "stream": "".join(pieces),
        "pieces": len(pieces),
        "tools": str(called),
        "structured": model.as_structured_llm(Person).complete("Ada").raw.model_dump(),
        "embeddings": [len(each) for each in embedder.get_text_embedding_batch(["one", "two"])],
    }


def use_instructor(url: str, key: str) -> dict[str, Any]:
    import instructor
    from openai import OpenAI

    made: dict[str, Any] = {}
    for mode in (
        instructor.Mode.TOOLS,
        instructor.Mode.TOOLS_STRICT,
        instructor.Mode.JSON_SCHEMA,
        instructor.Mode.RESPONSES_TOOLS,
    ):
        with OpenAI(base_url=url, api_key=key, max_retries=0) as own:
            client = instructor.from_openai(own, mode=mode)
            person = client.chat.completions.create(
                model="default", messages=user("Ada"), response_model=Person, max_retries=0
            )
            made[mode.name] = person.model_dump()
    with OpenAI(base_url=url, api_key=key, max_retries=0) as own:
        client = instructor.from_openai(own, mode=instructor.Mode.TOOLS)
        parts = client.chat.completions.create_partial(
            model="default", messages=user("Ada"), response_model=Person, max_retries=0
        )
        made["stream"] = list(parts)[-1].model_dump()
    return made


def use_llm(url: str, key: str) -> dict[str, Any]:
    os.environ["LLM_USER_PATH"] = tempfile.mkdtemp()
    from llm.default_plugins.openai_models import Chat

    model = Chat(
        "isthmus",
        key=key,
        model_name="default",
        api_base=url,
        supports_schema=True,
        supports_tools=True,
    )
    model.key = key
    streamed = list(model.prompt(HELLO, stream=True))
    chain = model.chain("two and three", tools=[add], stream=False)
    return {
        "chat": model.prompt(HELLO, stream=False).text(),
        "stream": "".join(streamed),
        "pieces": len(streamed),
        "tools": list(chain)[-1],
        "structured": json.loads(model.prompt("Ada", schema=Person, stream=False).text()),
    }


CLIENTS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "litellm": use_litellm,
    "llama-index": use_llama_index,
    "instructor": use_instructor,
    "llm": use_llm,
}

if __name__ == "__main__":
    name, url, key = sys.argv[1:]
    print(json.dumps(CLIENTS[name](url, key)))
