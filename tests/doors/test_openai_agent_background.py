"""Agents in the background: the response is the agent's own run, followed, answered and ended from wherever it is known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from mcp_server.auth.principal import OWNER
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live, serving
from tests.doors.odd_model import OddModel


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(OddModel().app))
        opened = open_live(scratch / "agents", llm_url=(f"{upstream}/v1",))
        live = await stack.enter_async_context(opened)
        await live.runtime.services.agents.save(
            OWNER, "clerk", instructions="x", model="odd", tools=["kv_set"], approve=["kv_set"]
        )
        yield live


@pytest.fixture
async def client(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with connect(live) as client:
        yield client


def connect(live: Live, key: str | None = None) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key or live.key, max_retries=0)


def asked(key: str, say: str) -> str:
    made = {"tool": "kv_set", "arguments": {"key": key, "value": 1}}
    return json.dumps({"steps": [made], "say": say})


async def begin(client: AsyncOpenAI, **more: Any) -> Any:
    given: Any = {"model": "agent/clerk", "background": True}
    return await client.responses.create(**given | more)


async def settled(client: AsyncOpenAI, response: str) -> Any:
    async with asyncio.timeout(60):
        while True:
            found = await client.responses.retrieve(response)
            if found.status not in {"queued", "in_progress"}:
                return found
            await asyncio.sleep(0.02)


def approval(request: str) -> Any:
    return [
        {"type": "mcp_approval_response", "approval_request_id": request, "approve": True},
    ]


async def test_the_run_is_the_response_and_ends_after_its_question_was_answered(
    client: AsyncOpenAI, live: Live
) -> None:
    queued = await begin(client, input=asked("kept", "Kept."))
    assert (queued.background, queued.model) == (True, "agent/clerk")
    waiting = await settled(client, queued.id)
    assert [item.type for item in waiting.output] == ["mcp_approval_request"]
    going: Any = await begin(
        client, previous_response_id=queued.id, input=approval(waiting.output[0].id)
    )
    assert going.id == queued.id
    done: Any = await settled(client, queued.id)
    assert (done.status, done.output_text) == ("completed", "Kept.")
    run = await live.runtime.services.runs.get(OWNER, queued.id.replace("resp_", "run_"))
    assert (run["kind"], run["agent"], run["status"]) == ("agent", "clerk", "completed")
    assert (await live.runtime.services.kv.get(OWNER, "default", "kept"))["value"] == 1


async def test_its_stream_and_what_is_read_later_have_the_same_items(client: AsyncOpenAI) -> None:
    stream: Any = await begin(client, input=asked("told", "Told."), stream=True)
    events: list[Any] = [event async for event in stream]
    assert (events[0].type, events[0].response.status) == ("response.created", "queued")
    waiting = events[-1].response
    assert waiting.to_dict() == (await client.responses.retrieve(waiting.id)).to_dict()
    going: Any = await begin(client, input=approval(waiting.output[0].id), stream=True)
    again: list[Any] = [event async for event in going]
    assert [each.sequence_number for each in again] == list(range(len(again)))
    last = again[-1].response
    kinds = [item.type for item in last.output]
    assert kinds == ["mcp_approval_request", "mcp_call", "message"]
    assert last.to_dict() == (await client.responses.retrieve(waiting.id)).to_dict()


async def test_it_is_cancelled_where_it_waits(client: AsyncOpenAI) -> None:
    queued = await begin(client, input=asked("never", "Never."))
    await settled(client, queued.id)
    assert (await client.responses.cancel(queued.id)).status == "cancelled"
    assert (await client.responses.retrieve(queued.id)).status == "cancelled"


async def test_what_does_not_fit_starts_no_run(client: AsyncOpenAI, live: Live) -> None:
    wrong: list[tuple[type[openai.APIStatusError], dict[str, Any], str]] = [
        (openai.BadRequestError, {"store": False}, "must be stored"),
        (openai.NotFoundError, {"model": "agent/nobody"}, "nobody"),
        (openai.BadRequestError, {"input": []}, "input"),
        (openai.BadRequestError, {"tools": [{"type": "function", "name": "f"}]}, "tools"),
    ]
    runs = live.runtime.services.runs
    before = len((await runs.list(OWNER))["items"])
    for error, fields, words in wrong:
        with pytest.raises(error, match=words):
            await begin(client, **{"input": "x"} | fields)
    stranger = await make_key(live, tenant="strangers")
    async with connect(live, stranger["key"]) as foreign:
        with pytest.raises(openai.NotFoundError):
            await begin(foreign, input="x")
    assert len((await runs.list(OWNER))["items"]) == before
