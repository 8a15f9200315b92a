"""An agent's chat when its run fails, is left or is interrupted; each test has the only worker there is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import OWNER
from mcp_server.errors import LeaseLost
from mcp_server.operation import Operations
from tests.doors.openai_door import connect, open_door, until


async def ask(client: AsyncOpenAI, agent: str, **more: Any) -> Any:
    request: Any = {"model": f"agent/{agent}", "messages": [{"role": "user", "content": "hi"}]}
    return await client.chat.completions.create(**request | more)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_run_is_told_as_an_error(
    control: AsyncEngine, operations: Operations, tmp_path: Path, stream: bool
) -> None:
    script = tmp_path / "fail.yaml"
    script.write_text("turns: [{error: {status: 503, message: out of order}}]")
    async with open_door(control, operations, script=script) as door, connect(door) as client:
        await door.agents.save(OWNER, "broken", instructions="")
        with pytest.raises(openai.InternalServerError, match="out of order") as caught:
            await ask(client, "broken", stream=stream)

    assert caught.value.status_code == 503


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_the_run(
    control: AsyncEngine, operations: Operations, tmp_path: Path, stream: bool
) -> None:
    script = tmp_path / "slow.yaml"
    script.write_text("turns: [{text: late, delay_ms: 60000}]")
    async with open_door(control, operations, script=script) as door:
        await door.agents.save(OWNER, "slow", instructions="")
        async with connect(door) as client:
            asking = asyncio.create_task(ask(client, "slow", stream=stream))
            await until(lambda: bool(door.model.requests))
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: door.model.ends == ["CancelledError"])


@pytest.mark.parametrize("json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_that_goes_on_after_an_interruption_is_still_one_message(
    control: AsyncEngine, operations: Operations, tmp_path: Path, stream: bool, json: bool
) -> None:
    whole = '{"one": "two three"}' if json else "one two three"
    script = tmp_path / "talk.yaml"
    script.write_text(f"turns: [{{text: '{whole}'}}]")
    more: Any = {"response_format": {"type": "json_object"}} if json else {}
    async with open_door(control, operations, script=script) as door, connect(door) as client:
        await door.agents.save(OWNER, "talker", instructions="")
        door.model.between = losing_its_run_after(3)
        answer = await ask(client, "talker", stream=stream, **more)
        if stream:
            chunks = [chunk async for chunk in answer]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            roles = [c.choices[0].delta.role for c in chunks if c.choices[0].delta.role]
            reasons = [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason]
            told = chunks[-1].model_extra
            assert roles == ["assistant"]
        else:
            text, reasons = answer.choices[0].message.content, [answer.choices[0].finish_reason]
            told = answer.model_extra
        run = await door.runs.get(OWNER, told["isthmus"]["run"])

    assert len(door.model.requests) == 2
    assert (run["attempt"], run["output"], reasons) == (2, whole, ["stop"])
    # What was sent cannot be taken back; JSON is sent only when it is whole.
    assert text == (f"one two\n\n{whole}" if stream and not json else whole)


def losing_its_run_after(chunks: int) -> Callable[[], Awaitable[None]]:
    """Give what ends an attempt in the middle of its answer, when what it said has been stored."""
    left = chunks

    async def lose() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            await asyncio.sleep(0.3)
            raise LeaseLost

    return lose
