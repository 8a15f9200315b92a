"""The Tasks extension through real doors: one run behind a task, a tool call, a resource and every process."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live
from tests.doors.tasks_client import (
    DECLARED,
    EXTENSION,
    FIXTURES,
    StdioProcess,
    TaskClient,
    headers,
    open_stdio,
    over_http,
    over_sse,
)

MISSING_CAPABILITY, HEADER_MISMATCH, INVALID_PARAMS, NOT_FOUND = -32021, -32020, -32602, -32601
UNKNOWN = "run_" + "0" * 32


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "tasks", plugins=(FIXTURES,), llm_url=("scripted:",)) as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


@pytest.fixture
def client(live: Live, http: aiohttp.ClientSession) -> TaskClient:
    return over_http(http, live.url, live.key)


@pytest.fixture(scope="module")
async def stdio(live: Live) -> AsyncIterator[StdioProcess]:
    """Another process on the same data directory."""
    async with open_stdio(live) as process:
        yield process


@pytest.fixture
def other(stdio: StdioProcess) -> TaskClient:
    """A client of the other process."""
    return TaskClient(stdio.send)


@pytest.fixture(params=["http", "stdio"])
def any_client(client: TaskClient, other: TaskClient, request: pytest.FixtureRequest) -> TaskClient:
    return client if request.param == "http" else other


async def structured(client: TaskClient, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.without().call(tool, **arguments)
    assert not result["isError"], result
    return result["structuredContent"]


# What a call becomes


async def test_a_long_tool_is_answered_with_a_task_and_polled_to_its_result(
    any_client: TaskClient,
) -> None:
    created = await any_client.call("slow_compute", seconds=0.3, label="it")

    assert created["resultType"] == "task"
    assert created["status"] == "working"
    assert {"result", "error", "inputRequests", "requestState"}.isdisjoint(created)
    assert type(created["pollIntervalMs"]) is int
    task = await any_client.until(created["taskId"])
    assert task["resultType"] == "complete"
    assert task["status"] == "completed"
    assert task["createdAt"] == created["createdAt"] <= task["lastUpdatedAt"]
    assert raw.text_of(task["result"]) == "Computed it for 0.3 s"
    assert task["result"]["isError"] is False


async def test_an_agents_run_is_a_task_whose_result_is_that_of_its_call(client: TaskClient) -> None:
    name = f"echo-{uuid.uuid4().hex[:8]}"
    await structured(client, "agent_save", name=name, instructions="Repeat.")

    task = await client.until(await client.start("agent_run", agent=name, input="good morning"))

    assert task["status"] == "completed"
    assert task["result"]["structuredContent"] == {
        "run": task["taskId"],
        "status": "completed",
        "output": "good morning",
        "error": None,
    }
    assert json.loads(raw.text_of(task["result"])) == task["result"]["structuredContent"]


async def test_a_client_that_declares_nothing_gets_the_result_itself(client: TaskClient) -> None:
    result = await client.without().call("slow_compute", seconds=0.1, label="inline")

    assert result["resultType"] == "complete"
    assert raw.text_of(result) == "Computed inline for 0.1 s"


async def test_what_is_wrong_with_a_call_is_told_before_there_is_a_task(
    client: TaskClient,
) -> None:
    for arguments in ({}, {"seconds": "soon"}, {"seconds": 1, "colour": "red"}):
        result = await client.call("slow_compute", **arguments)
        assert result["resultType"] == "complete"
        assert result["isError"] is True
        assert raw.text_of(result).startswith("invalid_input: ")


async def test_a_tools_error_completes_the_task_and_a_requests_error_fails_it(
    client: TaskClient,
) -> None:
    tool_error = await client.until(await client.start("failing_job"))
    assert tool_error["status"] == "completed"
    assert tool_error["result"]["isError"] is True
    assert "error" not in tool_error

    failed = await client.until(await client.start("protocol_error_job"))
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == -32603
    assert "panics" in failed["error"]["message"]
    assert "result" not in failed


async def test_how_far_a_run_is_stands_in_its_task(client: TaskClient) -> None:
    task = await client.start("slow_compute", seconds=60, label="rows")
    async with asyncio.timeout(10):
        while (shown := await client.get(task)).get("statusMessage") is None:
            await asyncio.sleep(0.02)

    assert shown["statusMessage"] == "0 of 60: rows"
    await client.result("tasks/cancel", taskId=task)


async def test_the_older_transport_serves_tasks_without_routing_headers(
    live: Live, http: aiohttp.ClientSession
) -> None:
    async with raw.open_sse(http, live.url, live.key, handshake=False) as session:
        client = over_sse(session)
        task = await client.until(await client.start("slow_compute", seconds=0, label="it"))
        assert raw.text_of(task["result"]) == "Computed it for 0 s"


# Input


async def test_a_question_is_answered_and_the_task_goes_on(any_client: TaskClient) -> None:
    task = await any_client.start("confirm_delete", filename="a.txt")
    waiting = await any_client.until(task, "input_required")

    assert waiting["status"] == "input_required"
    ((key, asked),) = waiting["inputRequests"].items()
    assert asked["method"] == "elicitation/create"
    assert asked["params"]["mode"] == "form"
    assert asked["params"]["message"] == "Delete a.txt?"
    assert asked["params"]["requestedSchema"]["required"] == ["confirm"]
    answer = {"action": "accept", "content": {"confirm": True}}
    assert (await any_client.answer(task, **{key: answer})).keys() == {"resultType", "_meta"}
    done = await any_client.until(task)
    assert raw.text_of(done["result"]) == "a.txt is deleted"
    # What was answered is over: a late answer changes nothing, and is no error.
    await any_client.answer(task, **{key: {"action": "accept", "content": {"confirm": False}}})
    assert await any_client.get(task) == done


async def test_parts_of_a_question_are_answered_one_by_one(client: TaskClient) -> None:
    task = await client.start("multi_input")
    first, second = (await client.until(task, "input_required"))["inputRequests"]

    await client.answer(task, **{first: {"action": "accept", "content": {"name": "Ada"}}})
    waiting = await client.get(task)
    assert waiting["status"] == "input_required"
    assert list(waiting["inputRequests"]) == [second]
    await client.answer(task, **{first: {"action": "accept", "content": {"name": "Bob"}}})
    await client.answer(task, **{second: {"action": "accept", "content": {"confirm": True}}})

    done = await client.until(task)
    assert raw.text_of(done["result"]) == "Ada: True"


async def test_all_parts_may_be_answered_at_once_and_by_many(client: TaskClient) -> None:
    task = await client.start("multi_input")
    first, second = (await client.until(task, "input_required"))["inputRequests"]
    both = {
        first: {"action": "accept", "content": {"name": "Ada"}},
        second: {"action": "accept", "content": {"confirm": True}},
    }

    await asyncio.gather(*(client.answer(task, **both) for _ in range(8)))

    assert raw.text_of((await client.until(task))["result"]) == "Ada: True"


async def test_the_rest_of_a_question_may_be_answered_by_a_tool(client: TaskClient) -> None:
    task = await client.start("multi_input")
    first, _ = (await client.until(task, "input_required"))["inputRequests"]
    await client.answer(task, **{first: {"action": "accept", "content": {"name": "Ada"}}})

    request = (await structured(client, "run_get", run=task))["request"]
    assert {name: part["answered"] for name, part in request["parts"].items()} == {
        "name": True,
        "confirm": False,
    }
    answer = {"name": {"name": "Bob"}, "confirm": {"confirm": True}}
    await structured(client, "run_input", run=task, answer=answer)

    # What was said first counts.
    assert raw.text_of((await client.until(task))["result"]) == "Ada: True"


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_refusal_reaches_the_tool_as_an_error(client: TaskClient, action: str) -> None:
    task = await client.start("confirm_delete", filename="a.txt")
    (key,) = (await client.until(task, "input_required"))["inputRequests"]

    await client.answer(task, **{key: {"action": action}})

    done = await client.until(task)
    assert done["status"] == "completed"
    assert done["result"]["isError"] is True
    assert raw.text_of(done["result"]).startswith("forbidden: ")


async def test_an_answer_that_does_not_fit_is_refused_and_the_question_stays(
    client: TaskClient,
) -> None:
    task = await client.start("confirm_delete", filename="a.txt")
    (key,) = (await client.until(task, "input_required"))["inputRequests"]
    for wrong in (
        {"action": "accept", "content": {"confirm": "maybe"}},
        {"action": "accept", "content": {}},
        {"action": "accept"},
        {"action": "perhaps"},
        17,
    ):
        error = await client.error("tasks/update", taskId=task, inputResponses={key: wrong})
        assert error["code"] == INVALID_PARAMS
        assert error["message"].startswith("invalid_input: ")
    await client.answer(task, **{"never-asked": {"action": "accept", "content": {}}})

    assert list((await client.get(task))["inputRequests"]) == [key]
    await client.result("tasks/cancel", taskId=task)


# Cancelling


async def test_a_task_is_cancelled_wherever_it_runs(
    any_client: TaskClient,
) -> None:
    task = await any_client.start("slow_compute", seconds=60)
    await any_client.until(task, "working")
    begun = time.monotonic()

    acknowledged = await any_client.result("tasks/cancel", taskId=task)
    ended = await any_client.until(task)

    assert time.monotonic() - begun < 30  # it would have gone on for 60
    assert acknowledged.keys() == {"resultType", "_meta"}
    assert ended["status"] == "cancelled"
    assert {"result", "error"}.isdisjoint(ended)
    assert (await any_client.result("tasks/cancel", taskId=task)).keys() == acknowledged.keys()
    assert await any_client.get(task) == ended


async def test_a_task_that_waits_for_input_is_cancelled_and_takes_no_answer(
    client: TaskClient,
) -> None:
    task = await client.start("confirm_delete", filename="a.txt")
    (key,) = (await client.until(task, "input_required"))["inputRequests"]

    await client.result("tasks/cancel", taskId=task)
    await client.answer(task, **{key: {"action": "accept", "content": {"confirm": True}}})

    shown = await client.get(task)
    assert shown["status"] == "cancelled"
    assert "inputRequests" not in shown


# Who may


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_foreign_unknown_and_malformed_ids_are_answered_alike(
    live: Live, http: aiohttp.ClientSession, client: TaskClient, method: str
) -> None:
    stranger = await make_key(live, "read", "write", "run", tenant=f"t-{uuid.uuid4().hex[:8]}")
    foreign = over_http(http, live.url, stranger["key"])
    task = await client.start("slow_compute", seconds=60)
    more: dict[str, Any] = {"inputResponses": {}} if method == "tasks/update" else {}

    told: set[str] = set()
    for name in (task, UNKNOWN, "", "nonsense", "run_\u0000", "x" * 5000, "run://" + task):
        error = await foreign.error(method, taskId=name, **more)
        assert error["code"] == INVALID_PARAMS
        assert len(error["message"]) < 400
        told.add(error["message"].replace(repr(name[:80]), "ID"))

    assert len(told) == 1
    assert (await client.get(task))["status"] == "working"
    await client.result("tasks/cancel", taskId=task)


async def test_a_key_that_may_only_run_one_tool_follows_its_own_tasks_and_no_others(
    live: Live, http: aiohttp.ClientSession, client: TaskClient
) -> None:
    narrow = await make_key(live, "run:tool://slow_compute")
    own = over_http(http, live.url, narrow["key"])
    others = await client.start("slow_compute", seconds=60)

    task = await own.start("slow_compute", seconds=60)
    await own.result("tasks/cancel", taskId=task)
    assert (await own.until(task))["status"] == "cancelled"

    refused = [
        (await own.error(method, taskId=name))["message"].replace(name, "ID")
        for method in ("tasks/get", "tasks/cancel")
        for name in (others, UNKNOWN)
    ]
    assert refused[0] == refused[1]
    assert refused[2] == refused[3]
    assert (await client.get(others))["status"] == "working"
    await client.result("tasks/cancel", taskId=others)


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_a_client_that_does_not_declare_the_extension_is_told_what_is_missing(
    client: TaskClient, method: str
) -> None:
    error = await client.without().error(method, taskId=UNKNOWN, inputResponses={})

    assert error["code"] == MISSING_CAPABILITY
    assert error["data"] == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
@pytest.mark.parametrize("params", [{}, {"taskId": None}, {"taskId": 7}, {"taskId": ["a"]}])
async def test_a_missing_or_mistyped_id_is_named(
    any_client: TaskClient, method: str, params: dict[str, Any]
) -> None:
    error = await any_client.error(method, **params)

    assert error["code"] == INVALID_PARAMS
    assert error["message"] == "invalid_input: taskId: send the id of a task, as a string"


@pytest.mark.parametrize("given", [None, [], "yes", 1])
async def test_answers_that_are_no_object_are_refused(client: TaskClient, given: Any) -> None:
    error = await client.error("tasks/update", taskId=UNKNOWN, inputResponses=given)

    assert error["code"] == INVALID_PARAMS
    assert "inputResponses" in error["message"]


async def test_the_routing_header_names_the_task(live: Live, http: aiohttp.ClientSession) -> None:
    params = {"taskId": UNKNOWN}
    meta = {"_meta": {"io.modelcontextprotocol/clientCapabilities": DECLARED}}
    body = json.dumps(raw.modern_request("tasks/get", params | meta))
    for name in (None, "another", "=?base64?bm8=?="):
        sent = headers(live.key, "tasks/get", {}) | ({} if name is None else {"Mcp-Name": name})
        reply = await raw.send(http, "POST", f"{live.url}/mcp", data=body, headers=sent)
        assert (reply.status, reply.error["code"]) == (400, HEADER_MISMATCH)
    reply = await raw.send(
        http, "POST", f"{live.url}/mcp", data=body, headers=headers(live.key, "tasks/get", params)
    )
    assert (reply.status, reply.error["code"]) == (400, INVALID_PARAMS)


# The eras


async def test_the_extension_is_announced_in_its_own_era_only(
    live: Live, http: aiohttp.ClientSession, client: TaskClient
) -> None:
    discovered = (await client.result("server/discover"))["capabilities"]
    assert discovered["extensions"][EXTENSION] == {}
    assert "tasks" not in discovered

    session = await raw.Handshake(http, live.url, live.key).open()
    initialized = await session.post(raw.initialize({"extensions": {EXTENSION: {}}}))
    assert {"extensions", "tasks"}.isdisjoint(initialized.result["capabilities"])
    for method in ("tasks/get", "tasks/result", "tasks/list", "tasks/cancel"):
        reply = await session.request(method, {"taskId": UNKNOWN})
        assert reply.error["code"] == NOT_FOUND
    called = await session.request(
        "tools/call",
        {"name": "slow_compute", "arguments": {"seconds": 0}, "task": {"ttl": 1000}},
    )
    assert raw.text_of(called.result) == "Computed  for 0 s"


async def test_methods_of_the_older_experiment_do_not_exist(client: TaskClient) -> None:
    for method in ("tasks/result", "tasks/list"):
        assert (await client.error(method, taskId=UNKNOWN))["code"] == NOT_FOUND


# One run, every face


async def test_every_face_shows_the_same_run(client: TaskClient) -> None:
    async def faces(task: str) -> list[str]:
        plain = client.without()
        got = await structured(client, "run_get", run=task)
        read = await plain.result("resources/read", uri=f"run://{task}")
        shown = json.loads(read["contents"][0]["text"])
        return [got["status"], shown["status"], (await client.get(task))["status"]]

    task = await client.start("confirm_delete", filename="a.txt")
    await client.until(task, "input_required")
    assert await faces(task) == ["input_required"] * 3

    request = (await structured(client, "run_get", run=task))["request"]
    assert list((await client.get(task))["inputRequests"]) == [request["id"]]
    await structured(client, "run_input", run=task, answer={"confirm": False})
    done = await client.until(task)
    assert raw.text_of(done["result"]) == "a.txt is kept"
    assert await faces(task) == ["completed"] * 3

    task = await client.start("slow_compute", seconds=60)
    await structured(client, "run_cancel", run=task)
    await client.until(task)
    assert await faces(task) == ["cancelled"] * 3


async def test_a_task_of_one_process_is_answered_and_cancelled_through_another(
    client: TaskClient, other: TaskClient
) -> None:
    task = await client.start("confirm_delete", filename="a.txt")
    (key,) = (await other.until(task, "input_required"))["inputRequests"]
    await other.answer(task, **{key: {"action": "accept", "content": {"confirm": True}}})
    assert (await client.until(task))["status"] == "completed"

    task = await other.start("slow_compute", seconds=60)
    await client.result("tasks/cancel", taskId=task)
    assert (await other.until(task))["status"] == "cancelled"


async def test_each_request_of_the_extension_counts_against_the_rate(
    live: Live, http: aiohttp.ClientSession
) -> None:
    limited = await make_key(live, "read", "run", rate_limit="3/minute")
    client = over_http(http, live.url, limited["key"])
    task = await client.start("slow_compute", seconds=0)
    await client.get(task)
    await client.get(task)

    error = await client.error("tasks/get", taskId=task)
    assert error["code"] == -32029
    assert error["data"]["retry_after_seconds"] > 0


# Time


async def test_a_task_is_kept_for_the_time_that_it_names(live: Live, client: TaskClient) -> None:
    task = await client.start("slow_compute", seconds=60)
    assert (await client.get(task))["ttlMs"] is None
    await client.result("tasks/cancel", taskId=task)
    ended = await client.until(task)

    kept = live.runtime.settings.run_ttl_days.seconds("tool/slow_compute")
    assert kept is not None
    assert type(ended["ttlMs"]) is int
    assert kept * 1000 <= ended["ttlMs"] < (kept + 60) * 1000


async def test_a_task_whose_time_is_over_does_not_exist(live: Live, client: TaskClient) -> None:
    from sqlalchemy import text

    task = await client.start("slow_compute", seconds=0)
    await client.until(task)
    async with live.runtime.engines.control.begin() as tx:
        await tx.execute(
            text("update runs set purge_at = clock_timestamp() where id = :id"), {"id": task}
        )
    await live.runtime.stores.sweep.purge()

    gone = await client.error("tasks/get", taskId=task)
    never = await client.error("tasks/get", taskId=UNKNOWN)
    assert gone["code"] == never["code"] == INVALID_PARAMS
    assert gone["message"].replace(task, "ID") == never["message"].replace(UNKNOWN, "ID")


async def test_a_task_survives_a_restart_of_the_server(
    anyio_backend: object, data_dir: Path, http: aiohttp.ClientSession
) -> None:
    async with open_live(data_dir, plugins=(FIXTURES,), llm_url=("scripted:",)) as live:
        client = over_http(http, live.url, live.key)
        working = await client.start("slow_compute", seconds=1, label="twice")
        waiting = await client.start("confirm_delete", filename="a.txt")
        before = await client.until(waiting, "input_required")
    async with open_live(data_dir, plugins=(FIXTURES,), llm_url=("scripted:",)) as live:
        client = over_http(http, live.url, live.key)
        after = await client.get(waiting)
        assert after == before
        (key,) = after["inputRequests"]
        await client.answer(waiting, **{key: {"action": "accept", "content": {"confirm": True}}})
        assert raw.text_of((await client.until(waiting))["result"]) == "a.txt is deleted"
        done = await client.until(working)
        assert raw.text_of(done["result"]) == "Computed twice for 1 s"


# Notifications


class Ear:
    """An open subscriptions/listen stream."""

    def __init__(self, stream: raw.EventStream) -> None:
        self.stream = stream

    async def acknowledged(self) -> dict[str, Any]:
        message = await self.stream.message()
        assert message["method"] == "notifications/subscriptions/acknowledged", message
        return message["params"]["notifications"]

    async def task(self, seconds: float = 10) -> dict[str, Any]:
        message = await self.stream.message(seconds)
        assert message["method"] == "notifications/tasks", message
        meta = message["params"].pop("_meta")
        assert meta["io.modelcontextprotocol/subscriptionId"] == "watch"
        return message["params"]


@asynccontextmanager
async def listening(
    http: aiohttp.ClientSession, live: Live, key: str, tasks: Any, **more: Any
) -> AsyncIterator[Ear]:
    params = {
        "notifications": {"taskIds": tasks, **more},
        "_meta": {"io.modelcontextprotocol/clientCapabilities": DECLARED},
    }
    method = "subscriptions/listen"
    async with http.post(
        f"{live.url}/mcp",
        json=raw.modern_request(method, params, "watch"),
        headers=raw.modern_headers(key, method),
    ) as answer:
        yield Ear(raw.EventStream(answer))


async def test_a_listener_hears_of_each_change_as_polling_shows_it(
    live: Live, http: aiohttp.ClientSession, client: TaskClient
) -> None:
    task = await client.start("confirm_delete", filename="a.txt")
    await client.until(task, "input_required")
    async with listening(http, live, live.key, [task]) as ear:
        assert await ear.acknowledged() == {"taskIds": [task]}
        waiting = await ear.task()
        assert waiting == _polled(await client.get(task))
        (key,) = waiting["inputRequests"]
        await client.answer(task, **{key: {"action": "accept", "content": {"confirm": True}}})
        heard = [await ear.task()]
        while heard[-1]["status"] == "working":
            heard.append(await ear.task())
        assert heard[-1] == _polled(await client.get(task))
        assert raw.text_of(heard[-1]["result"]) == "a.txt is deleted"


async def test_a_listener_hears_how_far_a_run_is_that_says_no_more_after_it(
    live: Live, http: aiohttp.ClientSession, client: TaskClient
) -> None:
    task = await client.start("brief_reports")
    (key,) = (await client.until(task, "input_required"))["inputRequests"]
    async with listening(http, live, live.key, [task]) as ear:
        await ear.acknowledged()
        await client.answer(task, **{key: {"action": "accept", "content": {"confirm": True}}})
        while (await ear.task(3)).get("statusMessage") != "2 of 2":
            continue
    await client.result("tasks/cancel", taskId=task)


async def test_parts_that_are_answered_disappear_for_listeners_too(
    live: Live, http: aiohttp.ClientSession, client: TaskClient
) -> None:
    task = await client.start("multi_input")
    first, second = (await client.until(task, "input_required"))["inputRequests"]
    async with listening(http, live, live.key, [task]) as ear:
        await ear.acknowledged()
        assert list((await ear.task())["inputRequests"]) == [first, second]
        await client.answer(task, **{first: {"action": "accept", "content": {"name": "Ada"}}})
        assert list((await ear.task())["inputRequests"]) == [second]
    await client.result("tasks/cancel", taskId=task)


async def test_a_listener_hears_what_another_process_does(
    live: Live, http: aiohttp.ClientSession, client: TaskClient, other: TaskClient
) -> None:
    task = await client.start("slow_compute", seconds=60)
    async with listening(http, live, live.key, [task]) as ear:
        await ear.acknowledged()
        assert (await ear.task())["status"] == "working"
        await other.result("tasks/cancel", taskId=task)
        shown = await ear.task()
        while shown["status"] == "working":
            shown = await ear.task()
        assert shown["status"] == "cancelled"


async def test_a_listener_over_stdio_hears_of_its_tasks(
    stdio: StdioProcess, other: TaskClient
) -> None:
    task = await other.start("confirm_delete", filename="a.txt")
    await other.until(task, "input_required")
    params = {
        "notifications": {"taskIds": [task]},
        "_meta": {"io.modelcontextprotocol/clientCapabilities": DECLARED},
    }
    listening = stdio.begin("subscriptions/listen", params)
    async with asyncio.timeout(10):
        first = await stdio.notifications.get()
        assert first["method"] == "notifications/subscriptions/acknowledged"
        second = await stdio.notifications.get()
        assert second["params"]["status"] == "input_required"
        await other.result("tasks/cancel", taskId=task)
        third = await stdio.notifications.get()
        assert third["method"] == "notifications/tasks"
        assert third["params"]["status"] == "cancelled"
    listening.cancel()


async def test_only_tasks_that_the_caller_may_see_are_acknowledged(
    live: Live, http: aiohttp.ClientSession, client: TaskClient
) -> None:
    task = await client.start("slow_compute", seconds=60)
    stranger = await make_key(live, "read", "run", tenant=f"t-{uuid.uuid4().hex[:8]}")
    narrow = await make_key(live, "run:tool://slow_compute")
    for key, seen in ((live.key, [task]), (stranger["key"], []), (narrow["key"], [])):
        async with listening(http, live, key, [task, UNKNOWN, "nonsense", task]) as ear:
            assert await ear.acknowledged() == {"taskIds": seen}
    await client.result("tasks/cancel", taskId=task)


async def test_one_stream_carries_tasks_and_resources(
    live: Live, http: aiohttp.ClientSession, client: TaskClient
) -> None:
    key = uuid.uuid4().hex
    uri = f"kv://default/{key}"
    async with listening(http, live, live.key, [], resourceSubscriptions=[uri]) as ear:
        assert await ear.acknowledged() == {"taskIds": [], "resourceSubscriptions": [uri]}
        await structured(client, "kv_set", key=key, value=1)
        assert (await ear.stream.message())["params"]["uri"] == uri


async def test_a_stream_for_tasks_needs_the_extension_and_a_list_of_ids(
    live: Live, http: aiohttp.ClientSession, client: TaskClient
) -> None:
    del live, http
    wanted = {"notifications": {"taskIds": [UNKNOWN]}}
    error = await client.without().error("subscriptions/listen", **wanted)
    assert error["code"] == MISSING_CAPABILITY
    for tasks in (UNKNOWN, [1], {}, [UNKNOWN] * 1025):
        error = await client.error("subscriptions/listen", notifications={"taskIds": tasks})
        assert error["code"] == INVALID_PARAMS


def _polled(task: dict[str, Any]) -> dict[str, Any]:
    """What polling adds to a task: the envelope of a result."""
    return {name: value for name, value in task.items() if name not in {"resultType", "_meta"}}
