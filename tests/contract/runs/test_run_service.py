"""What the doors ask of runs: starting on terms, lists, events that are waited for, answers, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unavailable,
)
from mcp_server.runs.context import RunContext
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.record import Outcome
from mcp_server.services import run_terms
from mcp_server.services.runs import RunItem, RunService
from tests.contract.runs.world import SLOW, World, ended, reached

SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 1}},
    "required": ["count"],
    "additionalProperties": False,
}


async def ask(context: RunContext) -> Outcome:
    """Ask what the arguments say, and end with the answer."""
    asked: dict[str, Any] = context.run.input["arguments"]
    context.progress(1, 2, "asking")
    answer = await context.ask("ask/1", message="How many?", **asked)
    return Outcome(status="completed", output={"text": "", "structured": answer, "is_error": False})


@pytest.fixture
async def runs(world: World) -> AsyncIterator[RunService]:
    async with world.open(works={"tool/ask": ask}) as runs:
        yield runs


async def asking(
    runs: RunService, principal: Principal, **asked: Any
) -> tuple[str, dict[str, Any]]:
    """Start a run that asks; return it, once it waits, and its question."""
    started = await runs.start_tool(principal, "ask", asked or {"schema": SCHEMA})
    await reached(runs, principal, started["run"], "input_required")
    found = await runs.get(principal, started["run"])
    assert found["status"] == "input_required"
    assert found["request"] is not None
    return started["run"], dict(found["request"])


async def test_a_run_that_asks_waits_without_a_worker_and_goes_on_with_the_answer(
    world: World, runs: RunService, principal: Principal, control: AsyncEngine
) -> None:
    run, request = await asking(runs, principal)
    assert world.worker.held == frozenset()
    assert {**request, "id": ""} == {
        "id": "",
        "kind": "question",
        "message": "How many?",
        "schema": SCHEMA,
    }
    waiting = await runs.get(principal, run)
    assert waiting["progress"] == {"done": 1, "total": 2, "message": "asking"}
    assert (waiting["kind"], waiting["tool"], waiting["agent"]) == ("tool", "ask", None)
    answered = await runs.input(principal, run, {"count": 3}, request["id"])
    assert (answered["status"], answered["request"]) == ("queued", None)
    events = await ended(runs, principal, run)
    assert answered["last_event"] in {event["seq"] for event in events}
    done = await runs.get(principal, run)
    assert (done["status"], done["output"]["structured"]) == ("completed", {"count": 3})
    told = [event for event in events if event["type"] == "input"]
    assert [(event["request"], event["answer"]) for event in told] == [
        (request["id"], {"count": 3})
    ]
    entries, _ = await journal.read(control, principal.tenant, None, 50)
    verbs = [entry["verb"] for entry in entries if entry["uri"] == f"run://{run}"]
    assert verbs == ["queued", "running", "input_required", "queued", "running", "completed"]


@pytest.mark.parametrize(
    ("asked", "answer", "told"),
    [
        ({"schema": SCHEMA}, {"count": 0}, r"answer\['count'\]: 0 is less than the minimum"),
        ({"schema": SCHEMA}, {}, r"answer: 'count' is a required property"),
        ({"schema": SCHEMA}, "x" * 300_000, "answer: it is longer than the 262144 bytes"),
        ({"schema": {"$ref": "http://127.0.0.1/schema"}}, 1, "schema cannot be applied"),
        ({"schema": {"$ref": "#"}}, 1, "schema cannot be applied"),
        ({"kind": "approval"}, {"approved": "yes"}, r"answer\['approved'\]: 'yes' is not of type"),
        ({"kind": "approval"}, {"reason": "x"}, "'approved' is a required property"),
        ({"kind": "approval"}, {"approved": True, "x": 1}, "Additional properties"),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_and_the_run_goes_on_waiting(
    runs: RunService, principal: Principal, asked: dict[str, Any], answer: Any, told: str
) -> None:
    run, _ = await asking(runs, principal, **asked)
    with pytest.raises(InvalidInput, match=told):
        await runs.input(principal, run, answer)
    assert (await runs.get(principal, run))["status"] == "input_required"


async def test_the_first_of_many_answers_wins(runs: RunService, principal: Principal) -> None:
    run, request = await asking(runs, principal)
    with pytest.raises(Conflict, match="'ask_0' is over"):
        await runs.input(principal, run, {"count": 1}, "ask_0")
    answers = await asyncio.gather(
        *(runs.input(principal, run, {"count": n}, request["id"]) for n in range(1, 11)),
        return_exceptions=True,
    )
    won = [n for n, answer in enumerate(answers, 1) if isinstance(answer, dict)]
    assert len(won) == 1
    assert {type(answer) for answer in answers} == {dict, Conflict}
    await ended(runs, principal, run)
    assert (await runs.get(principal, run))["output"]["structured"] == {"count": won[0]}
    with pytest.raises(Conflict, match=f"run {run} waits for no input; it is completed"):
        await runs.input(principal, run, {"count": 1})


async def test_a_waiting_run_is_cancelled_at_once(runs: RunService, principal: Principal) -> None:
    run, _ = await asking(runs, principal)
    with anyio.fail_after(30):
        cancelled = await runs.cancel(principal, run)
    assert (cancelled["status"], cancelled["request"]) == ("cancelled", None)
    with pytest.raises(Conflict, match="it is cancelled"):
        await runs.input(principal, run, {"count": 1})


async def test_a_work_that_does_not_heed_its_cancellation_is_ended_without_it(
    world: World, principal: Principal
) -> None:
    free = asyncio.Event()

    async def stubborn(context: RunContext) -> Outcome:
        context.progress(0)
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue
        return Outcome(status="completed", output="late")

    async with world.open(works={"tool/stubborn": stubborn}) as runs:
        started = await runs.start_tool(principal, "stubborn", {})
        await reached(runs, principal, started["run"])
        with anyio.fail_after(1.0):
            assert (await runs.cancel(principal, started["run"]))["status"] == "cancelled"
        events = await ended(runs, principal, started["run"])
        free.set()
    assert await events_of(world, principal, started["run"]) == events


async def events_of(world: World, principal: Principal, run: str) -> list[dict[str, Any]]:
    async with world.open() as runs:
        return (await runs.events(principal, run))["items"]


async def test_events_are_waited_for(runs: RunService, principal: Principal) -> None:
    run, _ = await asking(runs, principal)
    seen = (await runs.events(principal, run))["next_after"]
    polling = asyncio.create_task(runs.events(principal, run, seen, wait_seconds=30))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(polling), 0.2)
    await runs.input(principal, run, {"count": 1})
    with anyio.fail_after(5):
        page = await polling
    assert page["items"][0]["type"] == "input"
    assert page["items"][0]["seq"] == seen + 1
    await ended(runs, principal, run)
    with anyio.fail_after(30):  # of 60: nothing comes any more
        last = await runs.events(principal, run, 10_000, wait_seconds=60)
    assert last == {"items": [], "next_after": 10_000, "status": "completed"}
    for wrong in ({"wait_seconds": 61}, {"wait_seconds": -1}, {"after": -1}, {"limit": 0}):
        with pytest.raises(InvalidInput):
            await runs.events(principal, run, **wrong)


async def test_pages_of_events_hold_as_many_as_asked_for(
    world: World, runs: RunService, principal: Principal
) -> None:
    world.script = f"turns: [{{text: '{'word ' * 50}'}}]"
    done = await runs.run(principal, "helper", "go", wait_seconds=30)
    whole = await ended(runs, principal, done["run"])
    found: list[dict[str, Any]] = []
    while True:
        after = found[-1]["seq"] if found else 0
        page = await runs.events(principal, done["run"], after, limit=7)
        assert len(page["items"]) <= 7
        if not page["items"]:
            break
        found += page["items"]
    assert found == whole
    record = await runs.record(principal, done["run"])
    assert (record["events"], record["first_event"]) == (whole, 1)


async def test_lists_show_what_policy_allows_and_what_the_key_started(
    runs: RunService, principal: Principal, stranger: Principal
) -> None:
    caller = Principal(principal.tenant, "u", frozenset({"run:agent://helper"}), "key_1")
    first = await runs.run(principal, "helper", "go", wait_seconds=30)
    second = await runs.run(caller, "helper", "go", wait_seconds=30)
    third, _ = await asking(runs, principal)
    assert await listed(runs, principal) == [third, second["run"], first["run"]]
    assert await listed(runs, principal, agent="helper") == [second["run"], first["run"]]
    assert await listed(runs, principal, kind="tool") == [third]
    assert await listed(runs, principal, kind="tool/ask", status="input_required") == [third]
    assert await listed(runs, principal, status="failed") == []
    assert await listed(runs, caller) == [second["run"]]
    narrow = Principal(principal.tenant, "u", frozenset({f"read:run://{first['run']}*"}), "key_1")
    assert await listed(runs, narrow) == [second["run"], first["run"]]
    assert await listed(runs, stranger) == []
    with pytest.raises(Forbidden):
        await runs.list(Principal(principal.tenant, "u", frozenset({"read:kv://x"}), "key_1"))
    filters: list[dict[str, Any]] = [
        {"status": "asleep"},
        {"limit": 0},
        {"cursor": "x"},
        {"cursor": "eA"},
        {"agent": "a\0"},
        {"kind": "\0"},
    ]
    for wrong in filters:
        with pytest.raises(InvalidInput):
            await runs.list(principal, **wrong)


async def listed(runs: RunService, principal: Principal, **filters: Any) -> list[str]:
    """List in pages of one."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await runs.list(principal, limit=1, cursor=cursor, **filters)
        found += [item["run"] for item in page["items"]]
        assert all("output" not in item for item in page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return found


async def test_whoever_may_call_a_tool_answers_and_cancels_its_own_runs_and_no_others(
    runs: RunService, principal: Principal, stranger: Principal
) -> None:
    caller = Principal(principal.tenant, "u", frozenset({"run:tool://ask"}), "key_1")
    other = Principal(principal.tenant, "v", frozenset({"run:tool://ask"}), "key_2")
    run, _ = await asking(runs, caller)
    for act in (
        lambda who: runs.input(who, run, {"count": 1}),
        lambda who: runs.cancel(who, run),
        lambda who: runs.get(who, run),
        lambda who: runs.record(who, run),
        lambda who: runs.events(who, run),
    ):
        with pytest.raises(Forbidden):
            await act(other)
        with pytest.raises(NotFound) as unknown:
            await act(stranger)
        assert str(unknown.value) == f"not_found: run {run!r} does not exist"
    with pytest.raises(Forbidden):
        await runs.start(caller, "helper", "go")
    await runs.input(caller, run, {"count": 1})
    assert (await ended(runs, caller, run))[-1]["status"] == "completed"


async def test_one_key_starts_one_run_also_after_its_end(
    runs: RunService, principal: Principal
) -> None:
    async def start(key: str | None) -> RunItem:
        return await runs.start(principal, "helper", "go", key=key)

    started = await asyncio.gather(*(start("a") for _ in range(5)))
    assert len({run["run"] for run in started}) == 1
    await ended(runs, principal, started[0]["run"])
    again = await start("a")
    assert (again["run"], again["status"]) == (started[0]["run"], "completed")
    assert (await start("b"))["run"] != again["run"]
    assert (await start(None))["run"] != (await start(None))["run"]


async def test_while_a_run_with_a_dedupe_key_lives_its_subject_gets_that_one(
    runs: RunService, principal: Principal
) -> None:
    other = Principal(principal.tenant, "other", principal.scopes)
    run, _ = await asking(runs, principal)

    async def start(who: Principal) -> str:
        return (await runs.start_tool(who, "ask", {"schema": SCHEMA}, dedupe_key="once"))["run"]

    first = await start(principal)
    assert await start(principal) == first != run
    assert await start(other) != first
    await runs.cancel(principal, first)
    assert await start(principal) != first


async def test_terms_out_of_their_range_are_refused(runs: RunService, principal: Principal) -> None:
    terms: list[Any] = [
        {"retries": -1},
        {"retries": 101},
        {"priority": 101},
        {"timeout_seconds": -1},
        {"dedupe_key": ""},
    ]
    for wrong in terms:
        (name,) = wrong
        with pytest.raises(InvalidInput, match=f"^invalid_input: {name}: .* is not within"):
            await runs.start(principal, "helper", "go", **wrong)


async def test_a_tenant_may_have_so_many_runs_waiting(
    world: World, principal: Principal, stranger: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_terms, "MOST_WAITING", 3)
    await world.save(stranger)
    world.script = SLOW
    async with world.open(works={"tool/ask": ask}) as runs:
        for _ in range(3):
            await asking(runs, principal)
        with pytest.raises(LimitExceeded, match="3 of your runs wait already") as refused:
            await runs.start(principal, "helper", "go")
        assert refused.value.retry_after == 5
        await runs.start(stranger, "helper", "go")


async def test_cancelling_a_run_cancels_those_that_it_started(
    world: World, principal: Principal
) -> None:
    started: list[str] = []

    async def parent(context: RunContext) -> Outcome:
        child = await runs.start_tool(principal, "ask", {}, key=context.key("child"))
        started.append(child["run"])
        await asyncio.Event().wait()
        raise AssertionError

    async with world.open(works={"tool/parent": parent, "tool/ask": ask}) as runs:
        run = (await runs.start_tool(principal, "parent", {}))["run"]
        await reached(runs, principal, run)
        with anyio.fail_after(10):
            while not started:
                await anyio.sleep(0.01)
        await reached(runs, principal, started[0], "input_required")
        await runs.cancel(principal, run)
        assert (await runs.get(principal, started[0]))["status"] == "cancelled"


async def test_a_run_that_began_is_told_although_the_database_goes_away_then(
    runs: RunService, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise ConnectionRefusedError("nobody listens")

    with monkeypatch.context() as outage:
        outage.setattr(RunQueue, "load", away)
        begun = await runs.run(principal, "helper", "hello", wait_seconds=0)
        assert begun["status"] == "queued"
        with pytest.raises(Unavailable):
            await runs.get(principal, begun["run"])
    assert (await runs.get(principal, begun["run"]))["run"] == begun["run"]
