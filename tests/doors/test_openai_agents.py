"""An agent answers as a model: one message, its own tools, its caller's rights, and it stops when nobody listens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import OWNER
from mcp_server.operation import Operations
from tests.doors.openai_door import Door, connect, open_door


@pytest.fixture(scope="module")
async def opened(control: AsyncEngine, operations: Operations) -> AsyncIterator[Door]:
    async with open_door(control, operations) as door:
        await door.agents.save(OWNER, "clerk", instructions="Look it up.", tools=["model_list"])
        yield door


async def ask(client: AsyncOpenAI, agent: str = "clerk", **more: Any) -> Any:
    request: Any = {
        "model": f"agent/{agent}",
        "messages": [{"role": "user", "content": "which models?"}],
    }
    return await client.chat.completions.create(**request | more)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_answers_as_one_message(door: Door, stream: bool) -> None:
    async with connect(door) as client:
        answer = await ask(client, stream=stream, temperature=0.5)
        if stream:
            chunks = [chunk async for chunk in answer]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            reasons = [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason]
            told, models = chunks[-1].model_extra, {chunk.model for chunk in chunks}
        else:
            text, reasons = answer.choices[0].message.content, [answer.choices[0].finish_reason]
            told, models = answer.model_extra, {answer.model}
            assert answer.usage.total_tokens > 0

    assert '"id":"scripted"' in text.replace('": "', '":"')
    assert reasons == ["stop"]
    assert models == {"agent/clerk"}
    call = {"name": "model_list", "arguments": "{}", "is_error": False}
    assert told is not None
    assert told["isthmus"]["tool_calls"] == [call]
    run = await door.runs.get(OWNER, told["isthmus"]["run"])
    assert (run["status"], run["output"]) == ("completed", text)
    assert door.model.requests[0]["temperature"] == 0.5
    assert door.model.requests[0]["messages"][0] == {"role": "system", "content": "Look it up."}


@pytest.mark.parametrize("name", ["nobody", "a/b", "", "x" * 300])
async def test_an_agent_that_is_not_there_is_not_found(door: Door, name: str) -> None:
    async with connect(door) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await ask(client, name)

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "mcp", "server_label": "isthmus"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "own"}}]}, "tools"),
        ({"metadata": {"mcp_servers": "isthmus"}}, "metadata.mcp_servers"),
        ({"n": 3}, "n"),
    ],
)
async def test_an_agent_takes_no_tools_from_outside(
    door: Door, more: dict[str, Any], param: str
) -> None:
    async with connect(door) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, **more)

    assert (caught.value.code, caught.value.param) == ("unsupported_value", param)
    assert door.model.requests == []


async def test_a_conversation_that_an_agent_cannot_have_is_refused(door: Door) -> None:
    old: Any = [{"role": "function", "name": "f", "content": "x"}]
    async with connect(door) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, messages=old)

    assert (caught.value.code, caught.value.param) == ("invalid_value", "messages")


async def test_a_key_for_one_agent_runs_only_that(door: Door) -> None:
    made = await door.keys.create("one", scopes=["run:agent://clerk", "read"])
    async with connect(door, made["key"]) as client:
        answer = await ask(client)
        assert answer.choices[0].finish_reason == "stop"
        with pytest.raises(openai.PermissionDeniedError):
            await ask(client, "other")
        with pytest.raises(openai.PermissionDeniedError):
            await ask(client, model="default")
