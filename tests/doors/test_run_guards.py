"""What a caller of runs cannot do: approve by a model, keep the server busy with an answer, start runs without an end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from mcp_server.auth.principal import OWNER
from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_door, open_live
from tests.doors.tasks_client import TaskClient, over_http

PLUGIN = Path(__file__).parent / "asking"


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "guards", plugins=(PLUGIN,)) as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


@pytest.fixture
def client(live: Live, http: aiohttp.ClientSession) -> TaskClient:
    return over_http(http, live.url, live.key)


async def call(
    http: aiohttp.ClientSession, live: Live, tool: str, **arguments: Any
) -> dict[str, Any]:
    return (await raw.call(http, live.url, live.key, tool, arguments)).result


async def structured(
    http: aiohttp.ClientSession, live: Live, tool: str, **arguments: Any
) -> dict[str, Any]:
    result = await call(http, live, tool, **arguments)
    assert not result["isError"], result
    return result["structuredContent"]


def message(tool: str, arguments: dict[str, Any]) -> str:
    """What makes the obedient model call a tool."""
    return json.dumps({"tool": tool, "arguments": arguments})


async def waiting_for_approval(http: aiohttp.ClientSession, live: Live) -> str:
    await structured(
        http, live, "agent_save", name="careful", instructions="x", tools=["kv_list"],
        approve=["kv_list"],
    )  # fmt: skip
    started = await structured(
        http, live, "agent_run", agent="careful", input=message("kv_list", {"namespace": "none"})
    )
    assert started["status"] == "input_required"
    return started["run"]


async def by_model(
    http: aiohttp.ClientSession, live: Live, through: str, arguments: dict[str, Any]
) -> str:
    """Have a model of the server answer, and return what its call of run_input gave."""
    if through == "chat":
        async with open_door(live, "chat") as door:
            return (await door.call("run_input", arguments)).text
    await structured(http, live, "agent_save", name="eager", instructions="x", tools=["run_input"])
    done = await structured(
        http, live, "agent_run", agent="eager", input=message("run_input", arguments)
    )
    assert done["status"] == "completed", done
    return done["output"]


@pytest.mark.parametrize("through", ["agent", "chat"])
async def test_a_model_of_the_server_cannot_approve_but_may_refuse(
    live: Live, http: aiohttp.ClientSession, through: str
) -> None:
    run = await waiting_for_approval(http, live)
    approving: dict[str, Any] = {"run": run, "answer": {"approved": True}}
    told = await by_model(http, live, through, approving)
    assert told.startswith(f"forbidden: run {run} waits for a person's approval"), told
    assert (await structured(http, live, "run_get", run=run))["status"] == "input_required"
    answered = await structured(http, live, "run_input", **approving)
    assert answered["status"] == "queued"

    run = await waiting_for_approval(http, live)
    refusing: dict[str, Any] = {"run": run, "answer": {"approved": False}}
    assert '"queued"' in await by_model(http, live, through, refusing)


async def test_a_model_may_answer_a_question(
    live: Live, http: aiohttp.ClientSession, client: TaskClient
) -> None:
    task = await client.start("ask_for", schema={"type": "integer"})
    await client.until(task, "input_required")
    assert '"queued"' in await by_model(http, live, "agent", {"run": task, "answer": 3})
    done = await client.until(task)
    assert done["result"]["content"][0]["text"] == "3"


MIXED = [{"a": number} if number % 2 else [number] for number in range(20_000)]
SLOW: dict[str, tuple[Any, Any, Any]] = {
    "a pattern": ({"type": "string", "pattern": "^(a+)+$"}, "a" * 40 + "!", "aaa"),
    "the names of properties": (
        {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
        {"a" * 40 + "!": 1},
        {"a": 1},
    ),
    "items compared": ({"type": "array", "uniqueItems": True}, MIXED, [1, {}]),
    "references": (
        {
            "$defs": {
                "d40": {"const": 1},
                **{
                    f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2}
                    for level in range(40)
                },
            },
            "anyOf": [{"type": "string"}, {"$ref": "#/$defs/d0"}],
        },
        1,
        "one",
    ),
}


@pytest.mark.parametrize("name", SLOW)
async def test_an_answer_that_takes_long_to_check_holds_nobody_up_and_is_refused(
    live: Live, http: aiohttp.ClientSession, client: TaskClient, name: str
) -> None:
    schema, slow, good = SLOW[name]
    task = await client.start("ask_for", schema=schema)
    await client.until(task, "input_required")
    answering = asyncio.create_task(call(http, live, "run_input", run=task, answer=slow))
    meanwhile = 0
    while not answering.done():
        await call(http, live, "run_get", run=task)
        meanwhile += not answering.done()
        await asyncio.sleep(0.05)
    refused = await answering
    assert refused["isError"]
    assert raw.text_of(refused).startswith("invalid_input: answer: it cannot be held against")
    assert meanwhile >= 2  # the first may have come before it
    assert (await client.get(task))["status"] == "input_required"
    assert not (await call(http, live, "run_input", run=task, answer=good))["isError"]
    assert json.loads((await client.until(task))["result"]["content"][0]["text"]) == good


@pytest.mark.parametrize(
    ("schema", "answer", "reason"),
    [
        ({"multipleOf": 0.1}, 10**400, "the question's schema cannot be applied"),
        ({"$ref": "#"}, 1, "the question's schema cannot be applied"),
        ({"$ref": "http://127.0.0.1:1/x"}, 1, "the question's schema cannot be applied"),
        ({"$ref": "file:///etc/passwd"}, 1, "the question's schema cannot be applied"),
        ({"properties": {"a": {"pattern": "^b$"}}}, {"a": "c"}, r"answer['a']: 'c' does not match"),
        ({"type": "integer"}, True, "True is not of type 'integer'"),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_with_the_reason(
    live: Live,
    http: aiohttp.ClientSession,
    client: TaskClient,
    schema: Any,
    answer: Any,
    reason: str,
) -> None:
    task = await client.start("ask_for", schema=schema)
    await client.until(task, "input_required")
    refused = await call(http, live, "run_input", run=task, answer=answer)
    assert raw.text_of(refused).startswith("invalid_input: answer")
    assert reason in raw.text_of(refused)
    await client.result("tasks/cancel", taskId=task)


BROKEN: dict[str, tuple[str, str]] = {
    "half a character": ('"\\ud800"', "half a surrogate pair"),
    "half a character in a name": ('{"\\udfff": 1}', "half a surrogate pair"),
    "nesting": ("[" * 150 + "]" * 150, "nested deeper than 128 levels"),
    "nesting without end": ("[" * 200_000, "write it as JSON"),
    "no JSON": ("{", "write it as JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_task_takes_no_answer_that_could_not_be_told_again(
    client: TaskClient, name: str
) -> None:
    text, reason = BROKEN[name]
    task = await client.start("ask_for", schema={})
    (asked,) = (await client.until(task, "input_required"))["inputRequests"]
    response = {"action": "accept", "content": {"answer": text}}
    error = await client.error("tasks/update", taskId=task, inputResponses={asked: response})
    assert error["code"] == -32602
    assert reason in error["message"]
    assert (await client.get(task))["status"] == "input_required"
    await client.result("tasks/cancel", taskId=task)


async def test_an_agent_that_runs_itself_comes_to_an_end(
    scratch: Path, http: aiohttp.ClientSession
) -> None:
    script = scratch / f"{uuid4().hex}.yaml"
    again = "{name: agent_run, arguments: {agent: self, input: go, wait_seconds: 600}}"
    script.write_text(f"turns:\n- tool_calls:\n  - {again}\n- {{text: done}}\n")
    async with open_live(
        scratch / uuid4().hex, llm_url=(f"scripted:{script}",), run_concurrency=2
    ) as live:
        await structured(
            http, live, "agent_save", name="self", instructions="x", tools=["agent_run"]
        )
        top = await structured(http, live, "agent_run", agent="self", input="go", wait_seconds=50)
        assert top["status"] == "completed"
        runs = (await structured(http, live, "run_list", limit=1000))["items"]
        assert [run["status"] for run in runs] == ["completed"] * 16
        told = await structured(http, live, "run_events", run=runs[0]["run"])
        (finished,) = [event for event in told["items"] if event["type"] == "tool_finished"]
        assert finished["is_error"]
        assert finished["text"].startswith("limit_exceeded: 16 runs have started one another")


async def test_one_key_cannot_watch_runs_without_end(
    live: Live, http: aiohttp.ClientSession
) -> None:
    greedy, modest = (await make_key(live), await make_key(live))

    async def watch(stack: AsyncExitStack, key: str, count: int) -> dict[str, Any]:
        uris = [f"run://run_{uuid4().hex}" for _ in range(count)]
        params = {"notifications": {"resourceSubscriptions": uris}}
        body = raw.modern_request("subscriptions/listen", params)
        headers = raw.modern_headers(key, "subscriptions/listen", params)
        answer = await stack.enter_async_context(
            http.post(f"{live.url}/mcp", json=body, headers=headers)
        )
        if answer.content_type == "application/json":
            return await answer.json()
        return await raw.EventStream(answer).message()

    async with AsyncExitStack() as stack:
        for _ in range(8):
            assert "error" not in await watch(stack, greedy["key"], 1024)
        refused = await watch(stack, greedy["key"], 1)
        assert refused["error"]["message"].startswith("limit_exceeded: one key may watch 8192 runs")
        assert "error" not in await watch(stack, modest["key"], 1)
    deadline = time.monotonic() + 10
    async with AsyncExitStack() as stack:  # what was watched is given back
        while "error" in await watch(stack, greedy["key"], 1):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_cancelling_a_run_ends_all_that_it_started_together(
    scratch: Path, http: aiohttp.ClientSession
) -> None:
    async with open_live(scratch / uuid4().hex, plugins=(PLUGIN,), run_concurrency=41) as live:
        runs = live.runtime.services.runs
        parent = (await runs.start_tool(OWNER, "sleep_soundly", {}))["run"]
        origin = f"run://{parent}"
        for _ in range(60):
            await runs.start_tool(OWNER, "sleep_soundly", {}, origin=origin)
        deadline = time.monotonic() + 20
        while len((await runs.list(OWNER, status="running"))["items"]) < 20:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        begun = time.monotonic()
        await structured(http, live, "run_cancel", run=parent)
        # One after the other would take 0.7 s each: their workers do not react in time.
        assert time.monotonic() - begun < 30
        assert len((await runs.list(OWNER, status="cancelled"))["items"]) == 61
