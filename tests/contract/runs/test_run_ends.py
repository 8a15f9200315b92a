"""How runs end: by a limit, a failure, a cancellation, or the server's stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import anyio
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.keys import KeyService
from mcp_server.auth.principal import Principal
from mcp_server.errors import LimitExceeded
from mcp_server.llm import ChatRequest, Chunk, Model
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.services import run_terms
from mcp_server.services.runs import RunService
from tests.contract.runs.world import BUSY, SLOW, World, ended, reached


async def test_a_limit_fails_the_run_with_the_reason_and_keeps_what_was_done(
    world: World, runs: RunService, principal: Principal
) -> None:
    world.script = BUSY
    await world.save(principal, limits={"turns": 3})
    done = await runs.run(principal, "helper", "go", wait_seconds=30)
    assert done["status"] == "failed"
    assert done["error"] == {
        "code": "limit_exceeded",
        "message": "the run was stopped: its limit of 3 turns was used up",
    }
    events = await ended(runs, principal, done["run"])
    assert sum(event["type"] == "tool_finished" for event in events) == 2
    assert events[-2]["finish_reason"] == "length"


async def test_a_failing_model_fails_the_run_with_its_error(
    world: World, runs: RunService, principal: Principal
) -> None:
    world.script = "turns: [{error: {status: 503, message: overloaded}}]"
    done = await runs.run(principal, "helper", "go", wait_seconds=30)
    assert (done["status"], done["output"]) == ("failed", None)
    assert done["error"] == {"code": "unavailable", "message": "overloaded"}


async def test_a_defect_fails_the_run_without_telling_its_text(
    world: World, principal: Principal, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Model:
        raise KeyError("secret")

    world.model = broken
    async with world.open() as runs:
        done = await runs.run(principal, "helper", "go", wait_seconds=30)
    assert done["error"] is not None
    assert done["error"]["code"] == "internal"
    assert "secret" not in done["error"]["message"]
    assert "KeyError: 'secret'" in caplog.text


async def test_odd_text_of_a_model_is_stored_clean(
    world: World, runs: RunService, principal: Principal
) -> None:
    class Odd(ScriptedModel):
        async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
            for text, reason in (("\0\ud800é", None), ("", "stop")):
                choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
                yield {"choices": [choice], "usage": {"cost": float("nan")}}

    world.model = Odd
    done = await runs.run(principal, "helper", "a\0b", wait_seconds=30)
    assert done["status"] == "completed"
    assert done["output"] == "\ufffd?é"
    json.dumps(await ended(runs, principal, done["run"])).encode()


async def test_cancelling_ends_a_run_at_once_and_a_second_time_changes_nothing(
    world: World, runs: RunService, principal: Principal
) -> None:
    world.script = SLOW
    started = await runs.start(principal, "helper", "go")
    with anyio.fail_after(1.5):
        cancelled = await runs.cancel(principal, started["run"])
    assert (cancelled["status"], cancelled["error"]) == ("cancelled", None)
    assert await runs.cancel(principal, started["run"]) == cancelled
    assert (await ended(runs, principal, started["run"]))[-1]["status"] == "cancelled"


async def test_a_run_can_be_followed_and_cancelled_from_another_process(
    world: World, runs: RunService, principal: Principal
) -> None:
    world.script = SLOW
    started = await runs.start(principal, "helper", "go")
    async with world.open() as elsewhere:
        following = asyncio.create_task(ended(elsewhere, principal, started["run"]))
        with anyio.fail_after(30):
            cancelled = await elsewhere.cancel(principal, started["run"])
        assert cancelled["status"] == "cancelled"
        assert await following == await ended(runs, principal, started["run"])


async def test_runs_beyond_the_slots_wait_and_can_be_cancelled_while_they_do(
    world: World, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.script = SLOW
    monkeypatch.setattr(run_terms, "MOST_WAITING", 2)
    async with world.open(concurrency=1) as runs:
        await reached(runs, principal, (await runs.start(principal, "helper", "go"))["run"])
        second, _ = [await runs.start(principal, "helper", "go") for _ in range(2)]
        with pytest.raises(LimitExceeded, match="2 of your runs wait"):
            await runs.start(principal, "helper", "go")
        assert (await runs.get(principal, second["run"]))["status"] == "queued"
        assert (await runs.cancel(principal, second["run"]))["status"] == "cancelled"
        assert len(await ended(runs, principal, second["run"])) == 2


async def test_one_tenants_runs_leave_room_for_anothers(
    world: World, principal: Principal, stranger: Principal
) -> None:
    await world.save(stranger)
    world.script = SLOW
    async with world.open(concurrency=2) as runs:
        started = [await runs.start(principal, "helper", "go") for _ in range(3)]
        await reached(runs, principal, started[0]["run"])
        world.script = "turns: [{text: quick}]"
        answer = await runs.run(stranger, "helper", "go", wait_seconds=20)
        assert (answer["status"], answer["output"]) == ("completed", "quick")
        statuses = [(await runs.get(principal, run["run"]))["status"] for run in started]
        assert sorted(statuses) == ["queued", "queued", "running"]


async def test_a_stopping_server_hands_its_runs_back_and_another_one_finishes_them(
    world: World, principal: Principal
) -> None:
    world.script = SLOW
    async with world.open() as runs:
        started = await runs.start(principal, "helper", "go")
        await reached(runs, principal, started["run"])
    left = await runs.get(principal, started["run"])
    assert (left["status"], left["attempt"], left["retries"]) == ("queued", 1, 0)
    world.script = "turns: [{text: done}]"
    async with world.open() as runs:
        assert (await ended(runs, principal, started["run"]))[-1]["status"] == "completed"
        assert (await runs.get(principal, started["run"]))["attempt"] == 2


async def test_a_dead_key_stops_its_run_within_a_second_in_the_middle_of_an_answer(
    world: World, runs: RunService, control: AsyncEngine, principal: Principal
) -> None:
    keys = KeyService(control)
    key = await keys.create("mortal", tenant=principal.tenant)
    mortal = await keys.authenticate(key["key"])
    world.script = SLOW
    started = [await runs.start(mortal, "helper", "go") for _ in range(2)]
    for run in started:
        await reached(runs, principal, run["run"])
    loop = asyncio.get_running_loop()
    await keys.revoke(key["id"])
    begun = loop.time()
    for run in started:
        await ended(runs, principal, run["run"])
        done = await runs.get(principal, run["run"])
        assert (done["status"], (done["error"] or {})["code"]) == ("failed", "unauthenticated")
    assert loop.time() - begun < 30  # the model takes 60
