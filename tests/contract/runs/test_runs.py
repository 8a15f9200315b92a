"""Runs on the real database with the scripted model: their events, their input, who may see them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import anyio.lowlevel
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import Forbidden, InvalidInput, NotFound
from mcp_server.services.runs import RunService
from tests.contract.runs.world import SLOW, WRITE_THEN_ANSWER, World, ended


async def test_a_run_answers_and_its_events_tell_how(
    world: World, runs: RunService, principal: Principal, control: AsyncEngine
) -> None:
    world.script = WRITE_THEN_ANSWER
    done = await runs.run(principal, "helper", "go", wait_seconds=30)
    assert (done["status"], done["output"], done["error"]) == ("completed", "all done", None)
    assert (await world.kv.get(principal, "default", "a"))["value"] == 1
    events = await ended(runs, principal, done["run"])
    types = [event["type"] for event in events if event["type"] != "text"]
    assert types == [
        *("status", "status", "turn_finished", "tool_started", "tool_finished"),
        *("turn_finished", "message", "status"),
    ]
    assert "".join(event["text"] for event in events if event["type"] == "text") == "all done"
    assert events[-2]["message"]["content"] == "all done"
    assert events[-1] == {"seq": len(events), "type": "status", "status": "completed"}
    assert done["last_event"] == len(events)
    assert done["usage"] == events[-2]["usage"]
    assert done["usage"] is not None
    assert done["usage"]["completion_tokens"] > 2
    assert await runs.get(principal, done["run"]) == done
    entries, _ = await journal.read(control, principal.tenant, None, 20)
    verbs = [entry["verb"] for entry in entries if entry["uri"] == f"run://{done['run']}"]
    assert verbs == ["queued", "running", "completed"]
    step = next(entry["step"] for entry in entries if entry["uri"] == "kv://default/a")
    assert step == f"{done['run']}/call/1"


async def test_a_run_can_be_followed_from_any_number_while_it_goes_on(
    world: World, runs: RunService, principal: Principal
) -> None:
    world.script = f"turns: [{{text: '{'word ' * 300}'}}]"
    started = await runs.start(principal, "helper", "go")
    whole = await ended(runs, principal, started["run"])
    assert len(whole) > 300
    for after in (0, 1, 150, len(whole) - 1, len(whole)):
        async with aclosing(runs.follow(principal, started["run"], after)) as following:
            assert [event async for event in following] == whole[after:]
        page = await runs.events(principal, started["run"], after)
        assert page["items"] == whole[after:][: len(page["items"])]


async def test_a_run_keeps_the_definition_it_began_with_and_sees_a_whole_conversation(
    world: World, runs: RunService, principal: Principal
) -> None:
    world.script = "turns: [{text: first}, {text: second}]"
    saved = await world.agents.get(principal, "helper")
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    started = await runs.start(principal, "helper", talk, options={"temperature": 0})
    await world.save(principal, model="scripted")
    assert started["agent_version"] == saved["version"]
    assert (await ended(runs, principal, started["run"]))[-2]["message"]["content"] == "second"


@pytest.mark.parametrize("given", ["x" * 2_000_001, [], [{"role": "boss", "content": ""}], ["a"]])
async def test_an_input_that_is_no_conversation_is_refused(
    runs: RunService, principal: Principal, given: Any
) -> None:
    with pytest.raises(InvalidInput, match=r"^invalid_input: input"):
        await runs.start(principal, "helper", given)


async def test_the_wait_ends_early_or_leaves_the_run_going(
    world: World, runs: RunService, principal: Principal
) -> None:
    seen: list[int] = []

    async def note(event: dict[str, Any]) -> None:
        seen.append(event["seq"])

    done = await runs.run(principal, "helper", "x", wait_seconds=60, on_event=note)
    assert (done["status"], seen) == ("completed", list(range(1, done["last_event"] + 1)))
    world.script = SLOW
    going = await runs.run(principal, "helper", "x", wait_seconds=0)
    assert going["status"] in {"queued", "running"}
    with pytest.raises(InvalidInput, match="wait_seconds"):
        await runs.run(principal, "helper", "x", wait_seconds=601)
    waiting = asyncio.create_task(runs.run(principal, "helper", "x", wait_seconds=60))
    await anyio.lowlevel.checkpoint()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (await runs.get(principal, going["run"]))["status"] in {"queued", "running"}


async def test_foreign_and_unknown_runs_answer_alike(
    world: World, runs: RunService, principal: Principal, stranger: Principal
) -> None:
    done = await runs.run(principal, "helper", "go", wait_seconds=30)
    for run in (done["run"], "run_" + "0" * 32, "no\0", "x" * 10_000):
        for act in (runs.get, runs.cancel, runs.events):
            with pytest.raises(NotFound) as error:
                await act(stranger, run)
            assert str(error.value) == f"not_found: run {run[:80]!r} does not exist"
        with pytest.raises(NotFound):
            await anext(runs.follow(stranger, run))
    with pytest.raises(NotFound, match="agent 'helper' does not exist"):
        await runs.start(stranger, "helper", "go")


async def test_who_may_only_run_an_agent_sees_its_own_runs_and_no_others(
    world: World, runs: RunService, principal: Principal
) -> None:
    caller = Principal(principal.tenant, "u", frozenset({"run:agent://helper"}), "key_1")
    own = await runs.run(caller, "helper", "go", wait_seconds=30)
    assert own["status"] == "completed"
    assert (await ended(runs, caller, own["run"]))[-1]["status"] == "completed"
    assert (await runs.cancel(caller, own["run"])) == own
    others = await runs.run(principal, "helper", "go", wait_seconds=30)
    for act in (runs.get, runs.cancel, runs.events):
        with pytest.raises(Forbidden):
            await act(caller, others["run"])


async def test_a_tool_has_the_rights_of_grant_and_subject_at_that_moment(
    world: World, runs: RunService, principal: Principal
) -> None:
    world.script = WRITE_THEN_ANSWER
    narrow = Principal(principal.tenant, "u", frozenset({"run", "read"}), "key_1")
    for granted, now in ((narrow, narrow.scopes), (principal, narrow.scopes)):
        world.scopes = lambda _, now=now: now
        started = await runs.start(granted, "helper", "go")
        events = await ended(runs, principal, started["run"])
        told = next(event for event in events if event["type"] == "tool_finished")
        assert told["is_error"]
        assert told["text"].startswith("forbidden: ")
        assert events[-1]["status"] == "completed"
    with pytest.raises(NotFound):
        await world.kv.get(principal, "default", "a")
    world.scopes = lambda _: None
    started = await runs.start(principal, "helper", "go")
    assert (await ended(runs, principal, started["run"]))[-1]["error"]["code"] == "unauthenticated"
