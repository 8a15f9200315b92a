"""Responses in the background: left to a worker, followed from any number, cancelled, and one with their run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from mcp_server.auth.principal import OWNER
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live
from tests.doors.tasks_client import over_http
from tests.doors.test_revocation import Stopwatch

WORDS = [f"word{number}" for number in range(16)]
SCRIPT = f"""
turns:
  - text: "{" ".join(WORDS)}"
    delay_ms: 10
"""
SLOW = """
turns:
  - text: "never said"
    delay_ms: 600000
"""


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    script = scratch / "background.yaml"
    script.write_text(SCRIPT, encoding="utf-8")
    async with open_live(scratch / "background", llm_url=(f"scripted:{script}",)) as live:
        yield live


@pytest.fixture(scope="module")
async def slow(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    script = scratch / "slow.yaml"
    script.write_text(SLOW, encoding="utf-8")
    async with open_live(scratch / "slow", llm_url=(f"scripted:{script}",)) as live:
        yield live


@pytest.fixture
async def client(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with connect(live) as client:
        yield client


def connect(live: Live, key: str | None = None) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key or live.key, max_retries=0)


async def ask(client: AsyncOpenAI, **more: Any) -> Any:
    return await client.responses.create(model="default", input="Go on.", background=True, **more)


async def ended(client: AsyncOpenAI, response: str) -> Any:
    async with asyncio.timeout(30):
        while True:
            found = await client.responses.retrieve(response)
            if found.status not in {"queued", "in_progress"}:
                return found
            await asyncio.sleep(0.02)


async def run_that_ended(live: Live, run: str) -> Any:
    async with asyncio.timeout(30):
        while True:
            found = (await live.runtime.bus.call(OWNER, "run_get", {"run": run})).structured
            assert found is not None
            if found["ended_at"] is not None:
                return found
            await asyncio.sleep(0.02)


async def take(stream: Any, most: int = 10_000) -> list[Any]:
    events: list[Any] = []
    async for event in stream:
        events.append(event)
        if len(events) == most:
            break
    await stream.close()
    return events


async def test_a_response_in_the_background_ends_without_its_client(
    client: AsyncOpenAI, live: Live
) -> None:
    queued = await ask(client, metadata={"a": "b"})
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    done = await ended(client, queued.id)
    assert (done.status, done.output_text) == ("completed", " ".join(WORDS))
    assert (done.created_at, done.metadata) == (queued.created_at, {"a": "b"})
    (item,) = (await client.responses.input_items.list(queued.id)).data
    assert item.to_dict()["content"] == [{"type": "input_text", "text": "Go on."}]

    run = queued.id.replace("resp_", "run_")
    seen = await run_that_ended(live, run)
    assert (seen["kind"], seen["status"]) == ("response", "completed")
    assert seen["output"] == " ".join(WORDS)
    (content,) = await live.runtime.bus.read(OWNER, f"run://{run}")
    assert '"response.completed"' in (content.text or "")


async def test_a_stream_goes_on_after_any_number_with_just_what_was_missed(
    client: AsyncOpenAI,
) -> None:
    first = await take(await ask(client, stream=True), most=12)
    response = first[0].response.id
    everything = await take(await client.responses.retrieve(response, stream=True))
    assert [event.type for event in everything[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    assert everything[-1].type == "response.completed"
    assert [event.sequence_number for event in everything] == list(range(len(everything)))
    assert everything[:12] == first
    for after in range(len(everything)):
        missed = await take(
            await client.responses.retrieve(response, stream=True, starting_after=after)
        )
        assert missed == everything[after + 1 :], after
    assert everything[-1].response == await client.responses.retrieve(response)


async def test_one_record_is_a_response_a_run_and_a_task(client: AsyncOpenAI, live: Live) -> None:
    done = await ended(client, (await ask(client)).id)
    run = done.id.replace("resp_", "run_")
    async with aiohttp.ClientSession() as http:
        tasks = over_http(http, live.url, live.key)
        task = await tasks.until(run)
        key = await make_key(live, tenant="strangers")
        refused = await over_http(http, live.url, key["key"]).error("tasks/get", taskId=run)
    assert task["status"] == "completed"
    assert task["result"]["structuredContent"]["output"] == done.output_text
    assert "does not exist" in refused["message"]
    (content,) = await live.runtime.bus.read(OWNER, f"run://{run}")
    shown = json.loads(content.text or "")
    assert (shown["status"], shown["output"]) == ("completed", done.output_text)


async def test_a_key_that_dies_cuts_the_stream_of_a_response(slow: Live) -> None:
    key = await make_key(slow)
    async with connect(slow, key["key"]) as client:
        stream = await ask(client, stream=True)
        response = (await anext(stream)).response.id
        await slow.runtime.services.keys.revoke(key["id"])
        watch = Stopwatch()
        with pytest.raises(openai.APIError, match="revoked"):
            await take(stream)
        watch.check("a response's stream")
        with pytest.raises(openai.AuthenticationError):
            await client.responses.retrieve(response)
    async with connect(slow) as owner:
        assert (await owner.responses.cancel(response)).status in {"cancelled", "failed"}


async def test_a_response_can_be_cancelled_while_it_is_made(slow: Live) -> None:
    async with connect(slow) as client:
        stream = await ask(client, stream=True)
        events = [await anext(stream) for _ in range(3)]
        response = events[0].response.id
        assert (await client.responses.retrieve(response)).status == "in_progress"
        assert (await client.responses.cancel(response)).status == "cancelled"
        with pytest.raises(openai.APIError, match="cancelled"):
            await take(stream)
        assert (await client.responses.cancel(response)).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="not found"):
            await ask(client, previous_response_id=response + "0")
        run = await run_that_ended(slow, response.replace("resp_", "run_"))
        assert run["status"] == "cancelled"


async def test_a_run_that_is_cancelled_over_mcp_is_a_cancelled_response(slow: Live) -> None:
    async with connect(slow) as client:
        response = (await ask(client)).id
        run = response.replace("resp_", "run_")
        await slow.runtime.bus.call(OWNER, "run_cancel", {"run": run})
        assert (await ended(client, response)).status == "cancelled"
        deleted = (await ask(client)).id
        await client.responses.delete(deleted)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(deleted)


async def test_what_cannot_be_in_the_background_is_refused(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as unstored:
        await ask(client, store=False)
    assert unstored.value.param == "store"
    elsewhere: Any = {"type": "mcp", "server_label": "x", "server_url": "https://example.org/mcp"}
    with pytest.raises(openai.BadRequestError) as secret:
        await ask(client, tools=[elsewhere | {"authorization": "secret"}])
    assert secret.value.param == "tools[0].authorization"
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="gpt-9", input="x", background=True)
    foreground = await client.responses.create(model="default", input="x")
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        await client.responses.cancel(foreground.id)
    with pytest.raises(openai.BadRequestError) as unkept:
        await client.responses.retrieve(foreground.id, stream=True)
    assert unkept.value.param == "stream"


async def test_another_tenant_neither_sees_nor_follows_nor_cancels_it(
    client: AsyncOpenAI, live: Live
) -> None:
    response = (await ask(client)).id
    key = await make_key(live, tenant="strangers")
    async with connect(live, key["key"]) as stranger:
        for refused in (
            stranger.responses.retrieve(response),
            stranger.responses.retrieve(response, stream=True),
            stranger.responses.cancel(response),
            stranger.responses.delete(response),
        ):
            with pytest.raises(openai.NotFoundError):
                await refused
    assert (await ended(client, response)).status == "completed"


async def test_a_conversation_grows_by_what_responses_ask_and_answer(client: AsyncOpenAI) -> None:
    made = await client.conversations.create()
    await client.responses.create(model="default", input="One.", conversation=made.id)
    queued = await ask(client, conversation=made.id)
    done = await ended(client, queued.id)
    assert done.conversation is not None
    assert done.conversation.id == made.id
    items: list[Any] = [
        item async for item in client.conversations.items.list(made.id, order="asc")
    ]
    assert [(item.role, item.content[0].text) for item in items] == [
        ("user", "One."),
        ("assistant", " ".join(WORDS)),
        ("user", "Go on."),
        ("assistant", " ".join(WORDS)),
    ]


async def test_a_response_has_ended_when_its_conversation_has_what_it_said(
    live: Live, client: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations = live.runtime.services.conversations
    remember, added = conversations.remember, asyncio.Event()
    stored = asyncio.Event()

    async def later(*given: Any, **named: Any) -> None:
        stored.set()
        await added.wait()
        await remember(*given, **named)

    monkeypatch.setattr(conversations, "remember", later)
    made = await client.conversations.create()
    queued = await ask(client, conversation=made.id)
    async with asyncio.timeout(30):
        await stored.wait()
    assert (await client.responses.retrieve(queued.id)).status == "in_progress"
    added.set()
    assert (await ended(client, queued.id)).status == "completed"
    assert len((await client.conversations.items.list(made.id)).data) == 2


async def test_of_two_responses_from_one_conversation_the_second_is_refused(slow: Live) -> None:
    async with connect(slow) as client:
        made = await client.conversations.create()
        stream = await ask(client, conversation=made.id, stream=True)
        events = [await anext(stream) for _ in range(3)]
        with pytest.raises(openai.ConflictError) as refused:
            await client.responses.create(model="default", input="x", conversation=made.id)
        assert refused.value.code == "conversation_locked"
        await client.responses.cancel(events[0].response.id)
        await stream.close()
        async with asyncio.timeout(30):
            while not await is_free(client, made.id):
                await asyncio.sleep(0.02)


async def is_free(client: AsyncOpenAI, conversation: str) -> bool:
    try:
        item: Any = {"role": "user", "content": "x"}
        await client.conversations.items.create(conversation, items=[item])
    except openai.ConflictError:
        return False
    return True
