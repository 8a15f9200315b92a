"""What a work may rely on: numbered events, steps done once, questions that wait without a worker."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import anyio
import pytest
from sqlalchemy import text

from mcp_server.auth.principal import Principal
from mcp_server.runs.fence import parse_key
from mcp_server.storage.sql.embedded import Cluster
from tests.contract.runs.engine import Engine, new_suffix, open_engine, worker_process


@pytest.fixture
def suffix() -> str:
    return new_suffix()


@pytest.fixture
async def engine(cluster: Cluster, suffix: str) -> AsyncIterator[Engine]:
    async with open_engine(cluster.control_url, suffix) as engine:
        yield engine


async def test_a_question_waits_without_a_worker_and_the_first_answer_counts(
    engine: Engine, principal: Principal, suffix: str
) -> None:
    run = await engine.start(principal, f"ask-{suffix}")
    waiting = await engine.until(principal, run, "input_required")
    assert waiting.request is not None
    assert waiting.request["message"] == "which?"
    assert waiting.epoch is None
    with anyio.fail_after(5):
        while run in engine.worker.held:
            await asyncio.sleep(0.01)
    queue = engine.stores.queue
    asked = waiting.request["id"]
    assert await queue.answer(principal.tenant, run, asked, "this") == "ok"
    assert await queue.answer(principal.tenant, run, asked, "that") != "ok"
    engine.wake.send("queue")
    told = await engine.ended(run)
    assert (await engine.load(principal, run)).output == "this"
    assert await engine.trials(run) == ["before"]
    assert [event.get("status", event["type"]) for event in told] == [
        *("queued", "running", "input_required", "input", "queued", "running", "resumed"),
        "completed",
    ]


async def test_another_process_answers_what_a_dead_one_asked(
    cluster: Cluster, principal: Principal
) -> None:
    own = new_suffix()
    async with open_engine(cluster.control_url) as client:
        async with worker_process(cluster.control_url, own) as process:
            run = await client.start(principal, f"ask-{own}")
            await client.until(principal, run, "input_required")
            process.signal(signal.SIGKILL)
            await process.wait()
        assert await client.stores.queue.answer(principal.tenant, run, None, "x") == "ok"
        async with open_engine(cluster.control_url, own) as heir:
            await heir.ended(run)
            assert (await heir.load(principal, run)).output == "x"


async def test_a_steps_key_is_the_same_in_each_attempt_but_for_the_epoch(
    engine: Engine, principal: Principal, suffix: str, cluster: Cluster
) -> None:
    own = new_suffix()
    async with worker_process(cluster.control_url, own) as process:
        run = await engine.start(principal, f"steps-{own}", {"count": 1, "seconds": 1})
        await engine.trying(run, "step/0")
        process.signal(signal.SIGKILL)
        await process.wait()
    async with open_engine(cluster.control_url, own) as heir:
        await heir.ended(run)
    async with engine.control.connect() as tx:
        query = text("select epoch from trials where run = :run")
        keys = [parse_key(key.partition("#")[0]) for key in await tx.scalars(query, {"run": run})]
    assert len(keys) == 2
    first, second = keys
    assert first is not None
    assert second is not None
    assert first.key == second.key == f"{run}/step/0"
    assert first.epoch < second.epoch


@pytest.mark.parametrize("retry", [False, True])
async def test_a_step_that_cannot_be_repeated_ends_unsure_or_is_tried_again_as_told(
    engine: Engine, principal: Principal, cluster: Cluster, *, retry: bool
) -> None:
    own = new_suffix()
    async with worker_process(cluster.control_url, own) as process:
        given = {"seconds": 1, "retry_unsure": retry}
        run = await engine.start(principal, f"once-{own}", given)
        await engine.trying(run, "once")
        process.signal(signal.SIGKILL)
        await process.wait()
    async with open_engine(cluster.control_url, own) as heir:
        await heir.ended(run)
        ended = await heir.load(principal, run)
    if retry:
        assert (ended.status, ended.output) == ("completed", "done")
    else:
        assert ended.error is not None
        assert ended.error["code"] == "unsure"
        assert await engine.trials(run) == ["once"]


async def test_events_come_in_few_frames_and_in_order(
    engine: Engine, principal: Principal, suffix: str
) -> None:
    run = await engine.start(principal, f"talk-{suffix}", {"count": 300, "seconds": 0.001})
    told = await engine.ended(run)
    texts = [event["text"] for event in told if event["type"] == "text"]
    assert texts == [f"{number} " for number in range(300)]
    async with engine.control.connect() as tx:
        query = text("select count(*) from run_events where run = :run")
        assert (await tx.scalar(query, {"run": run}) or 0) < 40


async def test_far_too_much_and_odd_text_is_cut_and_cleaned_and_the_run_goes_on(
    engine: Engine, principal: Principal, suffix: str
) -> None:
    run = await engine.start(principal, f"huge-{suffix}")
    told = await engine.ended(run)
    ended = await engine.load(principal, run)
    assert ended.status == "completed"
    assert 1_000_000 < ended.output["size"] < 5_000_000
    blobs = [event for event in told if event["type"] == "blob"]
    assert len(blobs) == 5
    assert all(500_000 < len(event["body"]) < 1_000_100 for event in blobs)
    async with engine.control.connect() as tx:
        query = text("select max(octet_length(events)) from run_events where run = :run")
        assert (await tx.scalar(query, {"run": run}) or 0) < 2_100_000


@pytest.mark.parametrize("name", ["a@b", "", "x" * 201, "a\x07", "a\nb"])
async def test_a_step_whose_name_no_key_could_carry_is_refused(
    engine: Engine, principal: Principal, suffix: str, name: str
) -> None:
    run = await engine.start(principal, f"named-{suffix}", {"name": name})
    told = await engine.ended(run)
    assert told[-1]["error"]["code"] == "invalid_input"
