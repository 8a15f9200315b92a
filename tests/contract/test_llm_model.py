"""What every model engine must do, over all of them: scripted, OpenAI-compatible upstream, embedded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from copy import deepcopy
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mcp_server.errors import AppError
from mcp_server.llm import Chunk, Upstream
from mcp_server.llm.gguf import open_gguf
from mcp_server.llm.openai_compatible import open_openai_compatible
from mcp_server.llm.scripted import MODEL_ID, ScriptedModel
from tests.contract.llm_upstream import EVENT_STREAM, Exchange, serving

KV_GET = {
    "name": "kv_get",
    "description": "Read one value from the key-value store.",
    "parameters": {
        "type": "object",
        "properties": {"key": {"type": "string"}, "namespace": {"type": "string"}},
        "required": ["key"],
        "additionalProperties": False,
    },
}
SET_TIMER = {
    "name": "set_timer",
    "description": "Start a countdown timer.",
    "parameters": {
        "type": "object",
        "properties": {"minutes": {"$ref": "#/$defs/count"}},
        "required": ["minutes"],
        "$defs": {"count": {"type": "integer", "minimum": 1, "maximum": 60}},
    },
}
TOOLS = [{"type": "function", "function": each} for each in (KV_GET, SET_TIMER)]
SCHEMAS = {each["name"]: each["parameters"] for each in (KV_GET, SET_TIMER)}
TIMER = {"type": "function", "function": {"name": "set_timer"}}


async def scripted_upstream(exchange: Exchange) -> None:
    """An upstream that is the scripted model behind HTTP."""
    model = ScriptedModel()
    if exchange.line.startswith("GET"):
        await exchange.send_json(200, {"object": "list", "data": [{"id": MODEL_ID}]})
        return
    try:
        if not exchange.body["stream"]:
            await exchange.send_json(200, await model.complete(exchange.body))
            return
        chunks = [each async for each in model.stream(exchange.body)]
    except AppError as error:
        await exchange.send_json(error.status, {"error": {"message": error.message}})
        return
    await exchange.send(EVENT_STREAM)
    await exchange.send_events(*chunks, "[DONE]")
    exchange.writer.close()


@pytest.fixture(scope="module", params=["scripted", "openai_compatible", "gguf"])
async def engine(request: pytest.FixtureRequest, anyio_backend: Any) -> AsyncIterator[Upstream]:
    async with AsyncExitStack() as stack:
        match request.param:
            case "scripted":
                yield ScriptedModel()
            case "openai_compatible":
                upstream = await stack.enter_async_context(serving(scripted_upstream))
                yield await stack.enter_async_context(open_openai_compatible(upstream.url, None))
            case _:
                yield await stack.enter_async_context(open_gguf(""))


@pytest.fixture
async def model_id(engine: Upstream) -> str:
    return (await engine.models())[0].id


def asking(model_id: str, text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": model_id, "messages": messages, "temperature": 0, **fields}


async def streamed(engine: Upstream, request: dict[str, Any]) -> list[Chunk]:
    async with aclosing(engine.stream(request)) as chunks:
        return [chunk async for chunk in chunks]


async def test_it_lists_a_healthy_chat_model(engine: Upstream) -> None:
    (info,) = await engine.models()
    assert info.healthy
    assert {"chat", "tools", "json_schema"} <= set(info.capabilities)
    assert info.upstream == engine.name
    assert engine.description


async def test_a_completion_is_whole(engine: Upstream, model_id: str) -> None:
    answer = await engine.complete(asking(model_id, "What is the capital of France?", max_tokens=8))
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert answer["model"] == model_id
    assert answer["id"]
    assert isinstance(answer["created"], int)
    assert choice["index"] == 0
    assert choice["finish_reason"] in {"stop", "length"}
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert "refusal" in choice["message"]
    usage = answer["usage"]
    assert 0 < usage["prompt_tokens"] < usage["total_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("wanted", [False, True])
async def test_a_stream_has_one_end_and_usage_only_if_asked(
    engine: Upstream, model_id: str, wanted: bool
) -> None:
    fields = {"stream_options": {"include_usage": True}} if wanted else {}
    chunks = await streamed(engine, asking(model_id, "one two three four", max_tokens=6, **fields))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["model"] for chunk in chunks} == {model_id}
    if wanted:
        last = chunks.pop()
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] > 0
        assert all(chunk["usage"] is None for chunk in chunks)
    assert not any(chunk.get("usage") for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"]["role"] == "assistant"
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] in {"stop", "length"}
    pieces = [choice["delta"].get("content") for choice in choices]
    assert len([piece for piece in pieces if piece]) >= 4


async def test_the_named_function_is_called_with_arguments_that_fit(
    engine: Upstream, model_id: str
) -> None:
    request = asking(model_id, "Wake me in 25 minutes.", tools=TOOLS, tool_choice=TIMER)
    (choice,) = (await engine.complete(request))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"]
    assert call["function"]["name"] == "set_timer"
    arguments = json.loads(call["function"]["arguments"])
    Draft202012Validator(SCHEMAS["set_timer"]).validate(arguments)


async def test_a_call_is_streamed_with_id_and_name_once(engine: Upstream, model_id: str) -> None:
    request = asking(model_id, "Wake me in 5 minutes.", tools=TOOLS, tool_choice=TIMER)
    chunks = await streamed(engine, {**request, "stream_options": {"include_usage": True}})
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert choices[-1]["finish_reason"] == "tool_calls"
    deltas = [call for each in choices for call in each["delta"].get("tool_calls", [])]
    assert {delta["index"] for delta in deltas} == {0}
    assert [bool(delta.get("id")) for delta in deltas] == [True] + [False] * (len(deltas) - 1)
    assert deltas[0]["function"] == {"name": "set_timer", "arguments": ""}
    text = "".join(delta["function"]["arguments"] for delta in deltas)
    Draft202012Validator(SCHEMAS["set_timer"]).validate(json.loads(text))
    assert chunks[-1]["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": TOOLS[:1]}},
    ],
)
async def test_a_required_call_is_made(engine: Upstream, model_id: str, choice: Any) -> None:
    request = asking(model_id, "Read the key color.", tools=TOOLS, tool_choice=choice)
    message = (await engine.complete(request))["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "kv_get"
    Draft202012Validator(SCHEMAS["kv_get"]).validate(json.loads(call["function"]["arguments"]))


async def test_with_choice_none_it_answers_in_words(engine: Upstream, model_id: str) -> None:
    request = asking(model_id, "Read the key color.", tools=TOOLS, tool_choice="none", max_tokens=4)
    message = (await engine.complete(request))["choices"][0]["message"]
    assert message["content"]
    assert "tool_calls" not in message


async def test_a_conversation_with_calls_and_results_goes_on(
    engine: Upstream, model_id: str
) -> None:
    request = asking(model_id, "Read the key color.", tools=TOOLS, max_tokens=12)
    arguments = {"name": "kv_get", "arguments": '{"key": "color"}'}
    call = {"id": "call_1", "type": "function", "function": arguments}
    request["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "blue"},
    ]
    before = deepcopy(request)
    message = (await engine.complete(request))["choices"][0]["message"]
    assert message["content"]
    assert "tool_calls" not in message
    assert request == before


async def test_a_json_schema_is_kept(engine: Upstream, model_id: str) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"$ref": "#/$defs/name"},
            "age": {"type": "integer"},
            "kind": {"enum": ["person", "animal"]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": False,
        "$defs": {"name": {"type": "string", "maxLength": 20}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": schema}}
    request = asking(model_id, "Mara is 25 years old.", response_format=wanted, max_tokens=100)
    content = (await engine.complete(request))["choices"][0]["message"]["content"]
    Draft202012Validator(schema).validate(json.loads(content))


async def test_a_function_that_is_not_offered_is_the_callers_mistake(
    engine: Upstream, model_id: str
) -> None:
    choice = {"type": "function", "function": {"name": "missing"}}
    request = asking(model_id, "x", tools=TOOLS, tool_choice=choice)
    with pytest.raises(AppError) as refused:
        await engine.complete(request)
    assert refused.value.status == 400
    with pytest.raises(AppError) as refused:
        await streamed(engine, request)
    assert refused.value.status == 400


async def test_after_a_stream_is_left_the_next_request_is_answered(
    engine: Upstream, model_id: str
) -> None:
    chunks = engine.stream(asking(model_id, "Count from one to a hundred.", max_tokens=400))
    await anext(chunks)
    await chunks.aclose()
    answer = await engine.complete(asking(model_id, "hello", max_tokens=2))
    assert answer["choices"][0]["message"]["content"]
