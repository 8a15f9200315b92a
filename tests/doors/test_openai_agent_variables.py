"""Variables of an agent's instructions through OpenAI's API: in metadata, in chats and responses alike."""

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

WORDS = json.dumps({"steps": [], "say": "Said."})
APIS = ("chat", "chat stream", "responses", "responses stream", "responses background")


@dataclass
class World:
    live: Live
    odd: OddModel
    client: AsyncOpenAI

    async def ask(self, api: str, **more: Any) -> None:
        """Ask the agent `writer`, and read its answer to the end."""
        how: dict[str, Any] = {"model": "agent/writer", **more}
        face, _, way = api.partition(" ")
        if way:
            how[way] = True
        if face == "chat":
            said: Any = [{"role": "user", "content": WORDS}]
            answer = await self.client.chat.completions.create(messages=said, **how)
        else:
            answer = await self.client.responses.create(input=WORDS, **how)
        if way == "stream":
            assert [piece async for piece in answer]
        async with asyncio.timeout(60):
            while way == "background" and answer.status != "completed":
                await asyncio.sleep(0.02)
                answer = await self.client.responses.retrieve(answer.id)


@pytest.fixture(scope="module")
async def world(anyio_backend: object, scratch: Path) -> AsyncIterator[World]:
    odd = OddModel()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(odd.app))
        opened = open_live(scratch / "variables", llm_url=(f"{upstream}/v1",))
        live = await stack.enter_async_context(opened)
        fields = {
            "name": "writer",
            "instructions": "Write for {{reader}} in {{language}}.",
            "variables": {"reader": None, "language": "English"},
        }
        saved = await BusDoor(live).call("agent_save", {**fields, "model": "odd"})
        assert not saved.is_error, saved
        client = AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0)
        yield World(live, odd, await stack.enter_async_context(client))


@pytest.mark.parametrize("api", APIS)
async def test_the_instructions_are_filled_from_metadata(world: World, api: str) -> None:
    world.odd.requests.clear()
    await world.ask(api, metadata={"variable.reader": "Ann", "team": "docs"})
    system = world.odd.requests[0]["messages"][0]
    assert system == {"role": "system", "content": "Write for Ann in English."}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "variables: reader must be given"),
        (
            {"metadata": {"variable.reader": "Ann", "variable.tone": "x"}},
            "variables: the agent has no tone; it has reader, language",
        ),
    ],
)
async def test_what_does_not_fit_is_named_with_the_way_to_give_it(
    world: World, api: str, more: dict[str, Any], message: str
) -> None:
    world.odd.requests.clear()
    with pytest.raises(openai.BadRequestError) as caught:
        await world.ask(api, **more)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "metadata")
    assert message in caught.value.message
    assert 'give each in metadata, as {"variable.NAME": "its text"}' in caught.value.message
    assert world.odd.requests == []
