"""The steps of runs: begun, finished once with their events, and there for the next attempt."""

from __future__ import annotations

import asyncio

import pytest

from mcp_server.runs.steps import StepState
from tests.contract.runs.rows import Rows

DONE = [{"type": "tool_finished", "call": "c"}]


async def test_a_step_is_begun_then_finished(rows: Rows) -> None:
    run, epoch = await rows.running()
    assert await rows.steps.load(run.id) == {}
    assert await rows.steps.begin(run.id, epoch, "call/1")
    assert await rows.steps.begin(run.id, epoch, "call/1")
    assert await rows.steps.load(run.id) == {"call/1": StepState(finished=False, result=None)}
    assert await rows.steps.finish(run.id, epoch, "call/1", {"n": 1}, 3, DONE)
    assert await rows.steps.load(run.id) == {"call/1": StepState(finished=True, result={"n": 1})}
    assert (await rows.told(run))[2:] == DONE


async def test_a_finished_step_keeps_its_first_result(rows: Rows) -> None:
    run, epoch = await rows.running()
    assert await rows.steps.finish(run.id, epoch, "call/1", "first", 3, [])
    assert await rows.steps.finish(run.id, epoch, "call/1", "second", 3, [])
    assert await rows.steps.begin(run.id, epoch, "call/1")
    assert (await rows.steps.load(run.id))["call/1"] == StepState(finished=True, result="first")


async def test_with_the_wrong_number_nothing_of_a_step_is_stored(rows: Rows) -> None:
    run, epoch = await rows.running()
    for first in (2, 4):
        assert not await rows.steps.finish(run.id, epoch, "call/1", 1, first, DONE)
    assert await rows.steps.load(run.id) == {}
    assert len(await rows.told(run)) == 2


async def test_a_step_without_events_moves_no_number(rows: Rows) -> None:
    run, epoch = await rows.running()
    assert await rows.steps.finish(run.id, epoch, "call/1", 1, 99, [])
    assert (await rows.load(run)).last_seq == 2


async def test_the_next_attempt_finds_the_steps_of_the_one_before(rows: Rows) -> None:
    run, epoch = await rows.running()
    await rows.steps.finish(run.id, epoch, "turn/1", "hello", 3, [])
    await rows.steps.begin(run.id, epoch, "call/1")
    await rows.leases.give_up(epoch)
    other = await rows.take()
    (again,) = await rows.claim(other)
    assert await rows.steps.load(run.id) == {
        "turn/1": StepState(finished=True, result="hello"),
        "call/1": StepState(finished=False, result=None),
    }
    assert await rows.steps.finish(again.id, other, "call/1", 2, again.last_seq + 1, DONE)
    assert (await rows.told(run))[-1] == DONE[0]


async def test_of_two_that_finish_a_step_one_result_is_kept(rows: Rows) -> None:
    run, epoch = await rows.running()
    done = await asyncio.gather(
        *(rows.steps.finish(run.id, epoch, "call/1", n, 3, [{"type": "x", "n": n}]) for n in (1, 2))
    )
    assert sorted(done) == [False, True]
    kept = (await rows.steps.load(run.id))["call/1"].result
    assert kept == done.index(True) + 1
    assert (await rows.told(run))[-1]["n"] == kept


@pytest.mark.parametrize("result", [None, False, 0, "", [], {"a": [1, None]}, "中" * 10])
async def test_a_result_comes_back_as_it_was(rows: Rows, result: object) -> None:
    run, epoch = await rows.running()
    assert await rows.steps.finish(run.id, epoch, "call/1", result, 3, [])
    assert (await rows.steps.load(run.id))["call/1"] == StepState(finished=True, result=result)


async def test_a_result_of_50_mb_is_cut(rows: Rows) -> None:
    run, epoch = await rows.running()
    assert await rows.steps.finish(run.id, epoch, "call/1", {"text": "x" * 50_000_000}, 3, [])
    kept = (await rows.steps.load(run.id))["call/1"].result["text"]
    assert 3_900_000 < len(kept) < 4_000_000
    assert kept.endswith("[cut: 50000000 characters in all]")
