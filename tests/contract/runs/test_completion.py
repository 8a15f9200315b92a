"""Runs that end at the same time end in few transactions, and none waits or fails because of another."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from mcp_server.runs.record import Outcome, Run
from mcp_server.storage.sql.run_tables import runs
from mcp_server.storage.sql.schema import journal
from tests.contract.runs.rows import Rows

COUNT = 40


async def running(rows: Rows, count: int = COUNT) -> tuple[list[Run], int]:
    for number in range(count):
        await rows.create(input=number)
    epoch = await rows.take(count)
    claimed = await rows.claim(epoch, slots=count)
    assert len(claimed) == count
    return claimed, epoch


def done(run: Run) -> Outcome:
    return Outcome(status="completed", output={"of": run.id}, events=[{"type": "message"}])


async def check_ended(rows: Rows, run: Run) -> None:
    assert (await rows.load(run)).output == {"of": run.id}
    told = [event.get("status", event["type"]) for event in await rows.told(run)]
    assert told == ["queued", "running", "message", "completed"]
    assert (await rows.journalled(run)).count("completed") == 1


async def test_ends_at_the_same_time_share_transactions(rows: Rows) -> None:
    claimed, epoch = await running(rows)
    ended = await asyncio.gather(*(rows.queue.end(run.id, epoch, done(run)) for run in claimed))
    assert [run and run.id for run in ended] == [run.id for run in claimed]
    assert [run and run.output for run in ended] == [{"of": run.id} for run in claimed]
    for run in claimed:
        await check_ended(rows, run)
    ids = [run.id for run in claimed]
    query = select(func.count(journal.c.xid.distinct())).where(
        journal.c.run.in_(ids), journal.c.verb == "completed"
    )
    async with rows.control.connect() as connection:
        assert (await connection.scalar(query) or 0) <= 3


async def test_a_run_whose_row_is_held_ends_later_and_holds_up_no_other(rows: Rows) -> None:
    claimed, epoch = await running(rows, 5)
    held, *others = claimed
    async with rows.control.begin() as tx:
        await tx.execute(select(runs.c.id).where(runs.c.id == held.id).with_for_update())
        slow = asyncio.create_task(rows.queue.end(held.id, epoch, done(held)))
        async with asyncio.timeout(10):
            await asyncio.gather(*(rows.queue.end(run.id, epoch, done(run)) for run in others))
        assert not slow.done()
    assert await slow is not None
    for run in claimed:
        await check_ended(rows, run)


async def test_a_run_that_is_lost_or_ended_twice_changes_nothing_for_the_others(rows: Rows) -> None:
    claimed, epoch = await running(rows, 6)
    lost, *others = claimed
    assert await rows.queue.force_cancel(rows.tenant, lost.id)
    ends = [rows.queue.end(run.id, epoch, done(run)) for run in (*claimed, others[0])]
    ended = await asyncio.gather(*ends)
    assert ended[0] is None
    assert sorted(run is None for run in (ended[1], ended[-1])) == [False, True]
    assert all(run is not None for run in ended[2:-1])
    assert (await rows.load(lost)).status == "cancelled"
    for run in others:
        await check_ended(rows, run)


async def test_what_the_database_refuses_of_one_run_ends_the_others(rows: Rows) -> None:
    claimed, epoch = await running(rows, 6)
    refused, *others = claimed
    bad = Outcome(status=cast("Any", "nonsense"))
    ends = [rows.queue.end(run.id, epoch, done(run)) for run in others]
    first, *ended = await asyncio.gather(
        rows.queue.end(refused.id, epoch, bad), *ends, return_exceptions=True
    )
    assert isinstance(first, DBAPIError)
    assert all(isinstance(run, Run) for run in ended)
    for run in others:
        await check_ended(rows, run)
    assert (await rows.load(refused)).status == "running"


@pytest.mark.parametrize("moment", range(6))
async def test_whoever_gives_up_waiting_takes_no_other_along(rows: Rows, moment: int) -> None:
    claimed, epoch = await running(rows, 6)
    tasks = [asyncio.create_task(rows.queue.end(run.id, epoch, done(run))) for run in claimed]
    for _ in range(moment):
        await asyncio.sleep(0)
    for task in tasks[:2]:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(run, Run) for run in ended[2:])
    for run in claimed[:2]:  # as when an answer got lost: stored or not, it may be sent again
        await rows.queue.end(run.id, epoch, done(run))
    for run in claimed:
        await check_ended(rows, run)
