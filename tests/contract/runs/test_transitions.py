"""The status of a run moves only as it may, and only for the lease that holds it: held by SQL itself."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from mcp_server.runs.record import ENDED, Outcome
from tests.contract.runs.rows import COMPLETED, QUESTION, Rows

STATUSES = ("queued", "running", "input_required", "completed", "failed", "cancelled", "expired")
LEGAL = {
    "queued": {"running", "failed", "cancelled", "expired"},
    "running": set(STATUSES) - {"running"},
    "input_required": {"queued", "failed", "cancelled", "expired"},
}
SET_STATUS = """
    update runs set status = :status,
        lease = case when :status = 'running' then cast(:epoch as bigint) end,
        request = case when :status = 'input_required' then '{}' end,
        ended_at = case when :ended then clock_timestamp() end
    where id = :run
"""
# What a worker may do with a run, under an epoch; each answers with something true if it did it.
BY_A_WORKER: dict[str, Callable[[Rows, str, int, int], Awaitable[Any]]] = {
    "append": lambda rows, run, epoch, seq: rows.events.append(run, epoch, seq, [{"type": "x"}]),
    "begin": lambda rows, run, epoch, _: rows.steps.begin(run, epoch, "call/1"),
    "finish": lambda rows, run, epoch, seq: rows.steps.finish(
        run, epoch, "call/1", 1, seq, [{"type": "x"}]
    ),
    "finish quietly": lambda rows, run, epoch, seq: rows.steps.finish(
        run, epoch, "call/1", 1, seq, []
    ),
    "end": lambda rows, run, epoch, _: rows.queue.end(run, epoch, COMPLETED),
    "fail": lambda rows, run, epoch, _: rows.queue.end(run, epoch, Outcome(status="failed")),
    "hand back": lambda rows, run, epoch, _: rows.queue.hand_back(run, epoch),
    "retry": lambda rows, run, epoch, _: rows.queue.hand_back(
        run, epoch, retry=True, delay_seconds=1, error={"code": "timeout", "message": "late"}
    ),
    "suspend": lambda rows, run, epoch, _: rows.queue.suspend(run, epoch, "ask/1", QUESTION),
}


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(STATUSES, 2)])
async def test_sql_refuses_every_transition_but_the_legal_ones(
    rows: Rows, before: str, after: str
) -> None:
    run = await rows.in_status(before)
    given = {"run": run.id, "status": after, "epoch": await rows.take(), "ended": after in ENDED}
    if after in LEGAL.get(before, set()):
        await rows.execute(SET_STATUS, **given)
        assert (await rows.load(run)).status == after
    else:
        with pytest.raises(IntegrityError, match=f"cannot go from {before} to {after}"):
            await rows.execute(SET_STATUS, **given)
        assert (await rows.load(run)).status == before


@pytest.mark.parametrize("status", STATUSES[1:])
async def test_sql_refuses_a_run_that_does_not_begin_queued(rows: Rows, status: str) -> None:
    run = await rows.create()
    copy = """
        insert into runs (id, tenant, subject, grant_scopes, kind, input, status)
        select id || 'x', tenant, subject, grant_scopes, kind, input, :status
        from runs where id = :run
    """
    with pytest.raises(IntegrityError, match="begins queued"):
        await rows.execute(copy, run=run.id, status=status)


@pytest.mark.parametrize(
    ("status", "wrong"),
    [
        ("queued", "lease = (select max(epoch) from run_leases)"),
        ("running", "lease = null"),
        ("queued", "request = '{}'"),
        ("input_required", "request = null"),
        ("queued", "ended_at = now()"),
        ("completed", "ended_at = null"),
    ],
)
async def test_sql_refuses_a_row_that_contradicts_its_status(
    rows: Rows, status: str, wrong: str
) -> None:
    await rows.take()
    run = await rows.in_status(status)
    with pytest.raises(IntegrityError):
        await rows.execute(f"update runs set {wrong} where id = :run", run=run.id)


@pytest.mark.parametrize("action", BY_A_WORKER)
async def test_a_worker_may_do_it_while_its_lease_holds_the_run(rows: Rows, action: str) -> None:
    run, epoch = await rows.running()
    assert await BY_A_WORKER[action](rows, run.id, epoch, run.last_seq + 1)
    assert await rows.told(run)


@pytest.mark.parametrize("action", BY_A_WORKER)
@pytest.mark.parametrize("taken", ["reaped", "reaped and claimed", "cancelled", "never its own"])
async def test_a_stale_epoch_is_refused_whatever_it_wants(
    rows: Rows, action: str, taken: str
) -> None:
    run, epoch = await rows.running()
    other = await rows.take()
    if taken == "cancelled":
        assert await rows.queue.force_cancel(rows.tenant, run.id)
    elif taken == "never its own":
        epoch = other
    else:
        await rows.silence(epoch)
        assert run.id in await rows.leases.reap(other)
    if taken == "reaped and claimed":
        assert [claimed.id for claimed in await rows.claim(other)] == [run.id]
    before, told = await rows.load(run), await rows.told(run)
    for next_seq in (run.last_seq + 1, before.last_seq + 1):
        assert not await BY_A_WORKER[action](rows, run.id, epoch, next_seq)
    assert await rows.load(run) == before
    assert await rows.told(run) == told
    assert await rows.steps.load(run.id) == {}


@pytest.mark.parametrize("action", BY_A_WORKER)
@pytest.mark.parametrize("status", [status for status in STATUSES if status != "running"])
async def test_no_epoch_may_touch_a_run_that_is_not_running(
    rows: Rows, action: str, status: str
) -> None:
    run = await rows.in_status(status)
    epoch = await rows.scalar("select max(epoch) from run_leases") or 1
    assert not await BY_A_WORKER[action](rows, run.id, epoch, run.last_seq + 1)
    assert await rows.load(run) == run


@pytest.mark.parametrize("status", STATUSES)
async def test_each_status_is_an_event_and_a_journal_entry(rows: Rows, status: str) -> None:
    run = await rows.in_status(status)
    told = [event["status"] for event in await rows.told(run) if event["type"] == "status"]
    path = {"queued": ["queued"], "running": ["queued", "running"]}
    assert told == path.get(status, ["queued", "running", status])
    assert await rows.journalled(run) == told
    assert (run.ended_at is not None) == (status in ENDED)


async def test_who_sends_a_frame_again_after_its_answer_was_lost_adds_nothing(rows: Rows) -> None:
    run, epoch = await rows.running()
    events = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    for _ in range(3):
        assert await rows.events.append(run.id, epoch, 3, events)
        assert await rows.steps.finish(run.id, epoch, "call/1", "x", 5, [{"type": "done"}])
    assert not await rows.events.append(run.id, epoch, 3, events[:1])
    assert [event["type"] for event in await rows.told(run)][2:] == ["text", "text", "done"]
