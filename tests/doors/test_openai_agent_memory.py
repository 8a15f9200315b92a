"""An agent in a conversation of the Responses API: it reads what was said, adds to it, and takes turns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.doors.live import BusDoor, Live, open_live, serving
from tests.doors.odd_model import OddModel

# The first answer of a conversation is late, the next is not.
LATE = "turns: [{text: first, delay_ms: 1500}, {text: second}, {text: third}]"
YES = json.dumps({})


@dataclass
class World:
    live: Live
    odd: OddModel
    client: AsyncOpenAI

    async def save(self, name: str, **fields: Any) -> None:
        await BusDoor(self.live).call("agent_save", {"name": name, "instructions": "", **fields})


@pytest.fixture(scope="module")
async def world(anyio_backend: object, scratch: Path) -> AsyncIterator[World]:
    odd = OddModel()
    script = scratch / "late.yaml"
    script.write_text(LATE)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(odd.app))
        urls = (f"scripted:{script}", f"{upstream}/v1")
        live = await stack.enter_async_context(open_live(scratch / "memory", llm_url=urls))
        client = AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0)
        yield World(live, odd, await stack.enter_async_context(client))


def told(items: list[Any]) -> list[tuple[str, str]]:
    return [(item.role, item.content[0].text) for item in items]


async def respond(client: AsyncOpenAI, agent: str, conversation: str, words: str) -> Any:
    return await client.responses.create(
        model=f"agent/{agent}", conversation=conversation, input=words, instructions="Be brief."
    )


async def test_an_agent_goes_on_with_a_conversation_and_adds_what_was_said(world: World) -> None:
    client = world.client
    await world.save("kind", instructions="Be kind.", model="odd")
    before: Any = {"type": "message", "role": "user", "content": "before"}
    made = await client.conversations.create(items=[before])
    answer = await respond(client, "kind", made.id, YES)
    assert (answer.status, answer.output_text) == ("completed", "yes")
    sent = [(each["role"], each["content"]) for each in world.odd.requests[-1]["messages"]]
    assert sent == [
        *(("system", "Be kind."), ("user", "before")),
        *(("system", "Be brief."), ("user", YES)),
    ]
    items = [item async for item in client.conversations.items.list(made.id, order="asc")]
    assert told(items) == [("user", "before"), ("user", YES), ("assistant", "yes")]
    listed = await client.responses.input_items.list(answer.id)
    assert listed.data[0].id == items[1].id
    await respond(client, "kind", made.id, YES)
    sent = [each["content"] for each in world.odd.requests[-1]["messages"]]
    assert sent == ["Be kind.", "before", YES, "yes", "Be brief.", YES]
    # Over MCP it is the same conversation.
    asked = {"agent": "kind", "input": YES, "conversation": made.id}
    await BusDoor(world.live).call("agent_run", asked)
    assert len(world.odd.requests[-1]["messages"]) == 7


async def test_a_busy_conversation_answers_409_or_lets_the_next_one_wait(world: World) -> None:
    client = world.client
    await world.save("late", model="scripted", memory="conversation")
    made = await client.conversations.create()
    first = asyncio.create_task(respond(client, "late", made.id, "one"))
    runs: list[Any] = []

    async def begun() -> bool:
        listed = await BusDoor(world.live).call("run_list", {"agent": "late"})
        runs[:] = listed.structured["items"]
        return bool(runs)

    async with asyncio.timeout(10):
        while not await begun():
            await asyncio.sleep(0.02)
    with pytest.raises(openai.ConflictError, match=runs[0]["run"]) as refused:
        await respond(client, "late", made.id, "two")
    assert refused.value.code == "conversation_locked"
    between: Any = {"type": "message", "role": "user", "content": "between"}
    with pytest.raises(openai.ConflictError, match=runs[0]["run"]):
        await client.conversations.items.create(made.id, items=[between])
    await world.save("late", model="scripted", memory="conversation", busy="enqueue")
    later = await respond(client, "late", made.id, "three")
    assert (await first).output_text == "first"
    assert later.output_text == "second"
    items = [item async for item in client.conversations.items.list(made.id, order="asc")]
    assert [text for _, text in told(items)] == ["one", "first", "three", "second"]


async def test_a_conversation_that_is_not_there_is_answered_404(world: World) -> None:
    await world.save("kind", instructions="Be kind.", model="odd")
    asked = len(world.odd.requests)
    with pytest.raises(openai.NotFoundError, match="conv_none"):
        await respond(world.client, "kind", "conv_none", YES)
    assert len(world.odd.requests) == asked
