"""Approvals both ways: what a response asks is answered over MCP, and what a run asks over MCP with OpenAI's SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from openai import AsyncOpenAI

from mcp_server.auth.principal import OWNER
from tests.doors.fixtures import make_key
from tests.doors.live import ClientDoor, Live, http_client, open_live, serving
from tests.doors.odd_model import OddModel
from tests.doors.tasks_client import over_http

ASKS: Any = {"type": "mcp", "server_label": "isthmus", "require_approval": "always"}


def steps(say: str, *made: tuple[str, dict[str, Any]]) -> str:
    listed = [{"tool": tool, "arguments": arguments} for tool, arguments in made]
    return json.dumps({"steps": listed, "say": say})


def put(key: str) -> tuple[str, dict[str, Any]]:
    return "kv_set", {"key": key, "value": 1}


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(OddModel().app))
        opened = open_live(scratch / "approvals", llm_url=(f"{upstream}/v1",))
        yield await stack.enter_async_context(opened)


@pytest.fixture
async def client(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with connect(live) as client:
        yield client


@pytest.fixture
async def mcp(live: Live) -> AsyncIterator[ClientDoor]:
    async with (
        http_client(live.headers) as http,
        Client(streamable_http_client(f"{live.url}/mcp", http_client=http)) as opened,
    ):
        yield ClientDoor(opened)


def connect(live: Live, key: str | None = None) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key or live.key, max_retries=0)


async def ask(client: AsyncOpenAI, given: str, **more: Any) -> Any:
    fields: Any = {"model": "odd", "background": True, "tools": [ASKS]} | more
    return await client.responses.create(input=given, **fields)


async def settled(client: AsyncOpenAI, response: str) -> Any:
    async with asyncio.timeout(30):
        while True:
            found = await client.responses.retrieve(response)
            if found.status not in {"queued", "in_progress"}:
                return found
            await asyncio.sleep(0.02)


async def waiting(mcp: ClientDoor, run: str) -> Any:
    async with asyncio.timeout(30):
        while True:
            found = (await mcp.call("run_get", {"run": run})).structured
            if found["status"] == "input_required":
                return found
            assert found["ended_at"] is None, found
            await asyncio.sleep(0.02)


def kinds(response: Any) -> list[str]:
    return [item.type for item in response.output]


def approval(request: str, approve: bool, **more: Any) -> Any:
    return [
        {"type": "mcp_approval_response", "approval_request_id": request, "approve": approve} | more
    ]


async def has_key(mcp: ClientDoor, key: str) -> bool:
    return not (await mcp.call("kv_get", {"key": key})).is_error


async def test_what_a_response_asks_is_answered_over_mcp(
    client: AsyncOpenAI, mcp: ClientDoor
) -> None:
    started = await ask(client, steps("Both.", put("one"), put("two")))
    run = started.id.replace("resp_", "run_")
    for key in ("one", "two"):
        request = (await waiting(mcp, run))["request"]
        assert request["kind"] == "approval"
        assert request["call"]["name"] == "kv_set"
        assert json.loads(request["call"]["arguments"])["key"] == key
        shown = await settled(client, started.id)
        assert (shown.status, shown.output[-1].type) == ("completed", "mcp_approval_request")
        assert not await has_key(mcp, key)
        told = await mcp.call("run_input", {"run": run, "answer": {"approved": True}})
        assert not told.is_error, told.text
    done = await ended(client, mcp, started.id)
    assert (done.status, done.output_text) == ("completed", "Both.")
    asked = ["mcp_approval_request", "mcp_call"]
    assert kinds(done) == ["mcp_list_tools", *asked, *asked, "message"]
    assert done.output[2].approval_request_id == done.output[1].id
    assert done.usage.total_tokens == 15  # of three turns
    again = await mcp.call("run_input", {"run": run, "answer": {"approved": True}})
    assert again.text.startswith("conflict: ")
    everything: list[Any] = [
        each async for each in await client.responses.retrieve(started.id, stream=True)
    ]
    assert [each.sequence_number for each in everything] == list(range(len(everything)))
    last: Any = everything[-1]
    assert last.response == done
    follow: Any = {"model": "odd", "previous_response_id": done.id, "tools": [ASKS]}
    with pytest.raises(openai.ConflictError, match="first answer"):
        await client.responses.create(**follow, input=approval(done.output[1].id, False))


async def ended(client: AsyncOpenAI, mcp: ClientDoor, response: str) -> Any:
    async with asyncio.timeout(30):
        while True:
            run = response.replace("resp_", "run_")
            found = (await mcp.call("run_get", {"run": run})).structured
            if found["ended_at"] is not None:
                return await client.responses.retrieve(response)
            await asyncio.sleep(0.02)


async def test_a_task_client_refuses_and_the_model_reads_why(
    client: AsyncOpenAI, mcp: ClientDoor, live: Live
) -> None:
    started = await ask(client, steps("As you like.", put("refused")), stream=True)
    events: list[Any] = [event async for event in started]
    assert events[-1].type == "response.completed"
    response = events[0].response.id
    task = response.replace("resp_", "run_")
    async with aiohttp.ClientSession() as http:
        tasks = over_http(http, live.url, live.key)
        shown = await tasks.until(task, "input_required")
        (name,) = shown["inputRequests"]
        await tasks.answer(task, **{name: {"action": "decline"}})
        done = await tasks.until(task)
    assert done["status"] == "completed"
    assert done["result"]["structuredContent"]["output"] == "As you like."
    rest: list[Any] = [
        event
        async for event in await client.responses.retrieve(
            response, stream=True, starting_after=events[-1].sequence_number
        )
    ]
    assert [event.sequence_number for event in rest] == [
        len(events) + number for number in range(len(rest))
    ]
    assert rest[0].type == "response.in_progress"
    (call,) = [item for item in rest[-1].response.output if item.type == "mcp_call"]
    assert (call.status, "the user declined" in json.dumps(call.to_dict())) == ("failed", True)
    assert not await has_key(mcp, "refused")


async def test_what_a_response_asks_is_answered_with_the_sdk_and_the_first_answer_wins(
    client: AsyncOpenAI, mcp: ClientDoor, live: Live
) -> None:
    asked = await settled(client, (await ask(client, steps("Done.", put("sdk")))).id)
    run = asked.id.replace("resp_", "run_")
    await waiting(mcp, run)
    follow: Any = {"model": "odd", "tools": [ASKS], "previous_response_id": asked.id}
    request = asked.output[-1].id
    stranger = await make_key(live, tenant="strangers")
    async with connect(live, stranger["key"]) as foreign:
        with pytest.raises(openai.BadRequestError, match="not found"):
            await foreign.responses.create(**follow, input=approval(request, True))
        with pytest.raises(openai.NotFoundError):
            await foreign.responses.retrieve(asked.id)
    done: Any = await client.responses.create(**follow, input=approval(request, True))
    assert (kinds(done), done.output_text) == (["mcp_call", "message"], "Done.")
    assert await has_key(mcp, "sdk")
    late = await mcp.call("run_input", {"run": run, "answer": {"approved": False}})
    assert late.text.startswith("conflict: ")
    with pytest.raises(openai.ConflictError, match="first answer"):
        await client.responses.create(**follow, input=approval(request, False))
    same: Any = await client.responses.create(**follow, input=approval(request, True))
    assert same.output_text == "Done."  # a client whose request broke off may repeat it
    assert kinds(await ended(client, mcp, asked.id)) == kinds(asked)


async def test_a_response_that_waits_is_cancelled(client: AsyncOpenAI, mcp: ClientDoor) -> None:
    asked = await settled(client, (await ask(client, steps("Never.", put("never")))).id)
    await waiting(mcp, asked.id.replace("resp_", "run_"))
    assert (await client.responses.cancel(asked.id)).status == "cancelled"
    assert (await client.responses.retrieve(asked.id)).status == "cancelled"
    follow: Any = {"model": "odd", "tools": [ASKS], "previous_response_id": asked.id}
    with pytest.raises(openai.ConflictError):
        await client.responses.create(**follow, input=approval(asked.output[-1].id, True))


async def test_what_an_agent_asks_over_mcp_is_answered_with_the_sdk(
    client: AsyncOpenAI, mcp: ClientDoor, live: Live
) -> None:
    await live.runtime.services.agents.save(
        OWNER, "clerk", instructions="x", model="odd", tools=["kv_set"], approve=["kv_set"]
    )
    given = {"agent": "clerk", "input": steps("Kept.", put("a"), put("b"))}
    run = (await mcp.call("agent_run", given)).structured["run"]
    response = run.replace("run_", "resp_")
    shown: Any = await client.responses.retrieve(response)
    assert (shown.status, shown.model) == ("completed", "agent/clerk")
    (request,) = shown.output
    assert (request.type, request.name, request.server_label) == (
        "mcp_approval_request",
        "kv_set",
        "isthmus",
    )
    assert json.loads(request.arguments) == {"key": "a", "value": 1}
    stranger = await make_key(live, tenant="strangers")
    answer: Any = {"model": "agent/clerk", "previous_response_id": response}
    async with connect(live, stranger["key"]) as foreign:
        with pytest.raises(openai.NotFoundError):
            await foreign.responses.retrieve(response)
        with pytest.raises(openai.BadRequestError, match="was not asked"):
            await foreign.responses.create(**answer, input=approval(request.id, True))
    second: Any = await client.responses.create(**answer, input=approval(request.id, True))
    assert (second.status, kinds(second)) == ("completed", ["mcp_approval_request"])
    assert await has_key(mcp, "a")
    with pytest.raises(openai.ConflictError, match="first answer"):
        await client.responses.create(**answer, input=approval(request.id, False))
    stream: Any = await client.responses.create(
        model="agent/clerk",
        previous_response_id=second.id,
        input=approval(second.output[0].id, False, reason="enough"),
        stream=True,
    )
    events: list[Any] = [event async for event in stream]
    last: Any = events[-1]
    assert (last.type, last.response.output_text) == ("response.completed", "Kept.")
    assert not await has_key(mcp, "b")
    seen = (await mcp.call("run_get", {"run": run})).structured
    assert (seen["status"], seen["output"]) == ("completed", "Kept.")
    over: Any = await client.responses.retrieve(response)
    assert (over.status, over.output_text) == ("completed", "Kept.")


async def test_an_agent_asked_with_the_sdk_is_answered_over_mcp(
    client: AsyncOpenAI, mcp: ClientDoor, live: Live
) -> None:
    await live.runtime.services.agents.save(
        OWNER, "clerk", instructions="x", model="odd", tools=["kv_set"], approve=["kv_set"]
    )
    asked: Any = await client.responses.create(
        model="agent/clerk", input=steps("Filed.", put("filed"))
    )
    assert (asked.status, kinds(asked)) == ("completed", ["mcp_approval_request"])
    (run,) = [
        item["run"]
        for item in (await mcp.call("run_list", {"status": "input_required"})).structured["items"]
        if item["agent"] == "clerk"
    ]
    await mcp.call("run_input", {"run": run, "answer": {"approved": True}})
    done: Any = await settled(client, run.replace("run_", "resp_"))
    assert done.output_text == "Filed."
    assert await has_key(mcp, "filed")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": [*approval("mcpr_x", True), {"role": "user", "content": "x"}]}, "input"),
        ({"input": approval("mcpr_" + "0" * 48, True)}, "input[0].approval_request_id"),
        ({"input": approval("mcpr_x", True)}, "input[0].approval_request_id"),
    ],
)
async def test_an_answer_that_fits_no_agent_is_refused(
    client: AsyncOpenAI, more: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="agent/clerk", **more)
    assert caught.value.param == param
