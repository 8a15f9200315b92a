"""Clients from PyPI, each as its own documentation uses it: chat, stream, tools, structured output and embeddings."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
import pytest
from agents import Agent, ModelSettings, Runner, function_tool, set_tracing_disabled
from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
from agents.models.openai_responses import OpenAIResponsesModel
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI
from pydantic import BaseModel, SecretStr
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.openai import OpenAIResponsesModel as PydanticResponses
from pydantic_ai.providers.openai import OpenAIProvider

from tests.doors.live import Live

DIMENSIONS = 512  # of the embedded embedder
HELLO = "Hello, 地峡!"


class Person(BaseModel):
    name: str
    age: int


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return f"the sum is {a + b}"


ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


@pytest.fixture
async def client(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client:
        yield client


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def test_openai_sync(live: Live) -> None:
    await anyio.to_thread.run_sync(use_openai, live)


def use_openai(live: Live) -> None:
    with OpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client:
        chat = client.chat.completions
        answer = chat.create(model="default", messages=user(HELLO))
        assert answer.choices[0].message.content == HELLO
        with chat.stream(model="default", messages=user(HELLO)) as stream:
            said = "".join(event.delta for event in stream if event.type == "content.delta")
        assert said == stream.get_final_completion().choices[0].message.content == HELLO

        asked = user("two and three")
        message = chat.create(model="default", messages=asked, tools=[ADD]).choices[0].message
        (call,) = message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "add"
        result = {
            "role": "tool",
            "tool_call_id": call.id,
            "content": add(**json.loads(call.function.arguments)),
        }
        told: Any = [*asked, message, result]
        assert (
            chat.create(model="default", messages=told, tools=[ADD]).choices[0].message.content
            == "the sum is 0"
        )

        parsed = chat.parse(model="default", messages=user("Ada"), response_format=Person)
        assert parsed.choices[0].message.parsed == Person(name="Ada", age=0)
        response = client.responses.parse(model="default", input="Ada", text_format=Person)
        assert response.output_parsed == Person(name="Ada", age=0)
        embedded = client.embeddings.create(model="default", input=["one", "two"])
        assert [len(each.embedding) for each in embedded.data] == [DIMENSIONS] * 2
        assert "scripted" in [model.id for model in client.models.list()]


async def test_openai_async(client: AsyncOpenAI) -> None:
    chat = client.chat.completions
    answer = await chat.create(model="default", messages=user(HELLO))
    assert answer.choices[0].message.content == HELLO
    async with chat.stream(model="default", messages=user("two and three"), tools=[ADD]) as stream:
        names = [e.name async for e in stream if e.type == "tool_calls.function.arguments.done"]
    final = (await stream.get_final_completion()).choices[0]
    assert (names, final.finish_reason) == (["add"], "tool_calls")

    async with chat.stream(model="default", messages=user("Ada"), response_format=Person) as parsed:
        message = (await parsed.get_final_completion()).choices[0].message
    assert message.parsed == Person(name="Ada", age=0)
    async with client.responses.stream(model="default", input=HELLO) as events:
        said = "".join([e.delta async for e in events if e.type == "response.output_text.delta"])
    assert said == (await events.get_final_response()).output_text == HELLO
    embedded = await client.embeddings.create(
        model="default", input=[1, 2, 3], encoding_format="float"
    )
    assert len(embedded.data[0].embedding) == DIMENSIONS


@pytest.mark.parametrize("face", ["chat", "responses"])
async def test_openai_agents(client: AsyncOpenAI, face: str) -> None:
    set_tracing_disabled(True)
    kind = OpenAIChatCompletionsModel if face == "chat" else OpenAIResponsesModel
    model = kind(model="default", openai_client=client)
    plain: Any = Agent(name="echo", instructions="Repeat.", model=model)
    assert (await Runner.run(plain, HELLO)).final_output == HELLO
    streamed = Runner.run_streamed(plain, HELLO)
    kinds = [
        event.data.type
        async for event in streamed.stream_events()
        if event.type == "raw_response_event"
    ]
    assert streamed.final_output == HELLO
    assert kinds.count("response.output_text.delta") > 1

    counting: Any = Agent(
        name="sum",
        model=model,
        tools=[function_tool(add)],
        model_settings=ModelSettings(parallel_tool_calls=False),
    )
    assert (await Runner.run(counting, "two and three")).final_output == "the sum is 0"
    typed: Any = Agent(name="person", model=model, output_type=Person)
    assert (await Runner.run(typed, "Ada")).final_output == Person(name="Ada", age=0)


@pytest.mark.parametrize("face", ["chat", "responses"])
async def test_pydantic_ai(client: AsyncOpenAI, face: str) -> None:
    provider = OpenAIProvider(openai_client=client)
    kind = OpenAIChatModel if face == "chat" else PydanticResponses
    model = kind("default", provider=provider)
    plain = PydanticAgent(model)
    assert (await plain.run(HELLO)).output == HELLO
    async with plain.run_stream(HELLO) as stream:
        said = [text async for text in stream.stream_text(delta=True, debounce_by=None)]
    assert "".join(said) == HELLO
    assert len(said) > 1

    assert (await PydanticAgent(model, tools=[add]).run("two and three")).output == "the sum is 0"
    typed = await PydanticAgent(model, output_type=Person).run("Ada")
    assert typed.output == Person(name="Ada", age=0)
    embedder = Embedder(OpenAIEmbeddingModel("default", provider=provider))
    assert [len(each) for each in (await embedder.embed_documents(["one", "two"])).embeddings] == [
        DIMENSIONS
    ] * 2


@pytest.mark.parametrize("face", ["chat", "responses"])
async def test_langchain_openai(live: Live, face: str) -> None:
    async with DefaultAsyncHttpxClient() as own:
        with DefaultHttpxClient() as unused:
            given = {"http_async_client": own, "http_client": unused, "max_retries": 0}
            given |= {"base_url": f"{live.url}/v1", "api_key": SecretStr(live.key)}
            await use_langchain(given, face)


async def use_langchain(given: Any, face: str) -> None:
    model = ChatOpenAI(model="default", use_responses_api=face == "responses", **given)
    assert (await model.ainvoke(HELLO)).text == HELLO
    parts = [part.text async for part in model.astream(HELLO)]
    assert "".join(parts) == HELLO
    assert len(parts) > 2

    counting = model.bind_tools([add], strict=True)
    asked: list[Any] = [HumanMessage("two and three")]
    called = await counting.ainvoke(asked)
    (call,) = called.tool_calls
    result = ToolMessage(add(**call["args"]), tool_call_id=call["id"])
    assert (await counting.ainvoke([*asked, called, result])).text == "the sum is 0"
    assert await model.with_structured_output(Person).ainvoke("Ada") == Person(name="Ada", age=0)

    embeddings = OpenAIEmbeddings(model="default", check_embedding_ctx_length=False, **given)
    vectors = await embeddings.aembed_documents(["one", "two"])
    assert [len(each) for each in vectors] == [DIMENSIONS] * 2
