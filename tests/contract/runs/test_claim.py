"""Claims: each run once, fair between tenants, in order, within the share, and flat in cost."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.runs.claim import CLAIM
from mcp_server.runs.record import Run
from tests.conftest import make_tenant
from tests.contract.runs.rows import COMPLETED, Rows

FLOOD = """
    with flood as (
        insert into runs (id, tenant, subject, grant_scopes, kind, input, status, last_seq,
            not_before)
        select 'run_' || replace(gen_random_uuid()::text, '-', ''), :tenant, 's', '{}', :kind, '"x"', 'queued', 1,
            clock_timestamp() + make_interval(secs => :later)
        from generate_series(1, :count) returning id
    )
    insert into run_events select id, 1, 1, '[{"type":"status","status":"queued"}]' from flood
"""


async def others(rows: Rows, count: int) -> list[Rows]:
    """Return rows of other tenants, of the same kind."""
    tenants = [await make_tenant(rows.control) for _ in range(count)]
    return [Rows(rows.control, principal.tenant, rows.kind) for principal in tenants]


async def flood(rows: Rows, count: int, *, kind: str | None = None, later: float = 0) -> None:
    given = {"kind": kind or rows.kind, "tenant": rows.tenant, "count": count, "later": later}
    await rows.execute(FLOOD, **given)


async def test_many_workers_claim_each_run_once(rows: Rows) -> None:
    tenants = [rows, *await others(rows, 4)]
    for number, tenant in enumerate(tenants):
        await flood(tenant, 20 + 40 * number)  # 500 in all
    epochs = [await rows.take() for _ in range(8)]
    claimed: list[Run] = []

    async def work(epoch: int) -> None:
        while batch := await rows.claim(epoch, slots=7):
            assert {run.epoch for run in batch} == {epoch}
            claimed.extend(batch)
            for run in batch:
                assert await rows.queue.end(run.id, epoch, COMPLETED) is not None

    await asyncio.gather(*map(work, epochs))
    # Who found every run in another's hands gave up early; nothing is left all the same.
    await work(epochs[0])
    assert len(claimed) == 500
    assert len({run.id for run in claimed}) == 500
    assert {run.attempt for run in claimed} == {1}
    for tenant in tenants:
        (run, *_) = await tenant.queue.page(tenant.tenant, limit=1)
        assert await tenant.journalled(run) == ["running", "completed"]
        assert len(await tenant.told(run)) == 3


async def test_workers_that_claim_at_once_do_not_starve_each_other(rows: Rows) -> None:
    await flood(rows, 64)
    epochs = [await rows.take() for _ in range(8)]
    taken = await asyncio.gather(*(rows.claim(epoch, slots=8) for epoch in epochs))
    assert [len(batch) for batch in taken] == [8] * 8


async def test_the_tenant_with_the_least_at_work_comes_first(rows: Rows) -> None:
    flooding, quiet = rows, (await others(rows, 1))[0]
    await flood(flooding, 100)
    elsewhere = await rows.take()
    assert len(await rows.claim(elsewhere, slots=6)) == 6
    late = [(await quiet.create()).id for _ in range(3)]
    claimed = await rows.claim(await rows.take(), slots=4)
    assert [run.id for run in claimed if run.tenant == quiet.tenant] == late
    claimed = await rows.claim(await rows.take(), slots=4)
    assert {run.tenant for run in claimed} == {flooding.tenant}


async def test_slots_are_dealt_out_evenly(rows: Rows) -> None:
    tenants = [rows, *await others(rows, 2)]
    for tenant in tenants:
        await flood(tenant, 20)
    dealt = Counter(run.tenant for run in await rows.claim(await rows.take(), slots=9))
    assert set(dealt.values()) == {3}


async def test_one_tenant_holds_no_more_than_its_share_of_a_worker(rows: Rows) -> None:
    await flood(rows, 20)
    epoch = await rows.take()
    first = await rows.claim(epoch, slots=8, share=3)
    assert len(first) == 3
    assert await rows.claim(epoch, slots=5, share=3) == []
    await rows.queue.end(first[0].id, epoch, COMPLETED)
    assert len(await rows.claim(epoch, slots=6, share=3)) == 1
    assert len(await rows.claim(await rows.take(), slots=8, share=3)) == 3


async def test_runs_of_a_tenant_come_by_priority_then_by_age(rows: Rows) -> None:
    made = [(await rows.create(priority=priority)).id for priority in (0, 5, 0, -2, 5)]
    order = [made[index] for index in (1, 4, 0, 2, 3)]
    epoch = await rows.take()
    assert [run.id for run in await rows.claim(epoch, slots=5)] == order
    for run in order:
        await rows.queue.hand_back(run, epoch)
    one_by_one = [(await rows.claim(epoch, slots=1))[0].id for _ in order]
    assert one_by_one == order


async def test_what_is_not_due_or_too_late_or_of_another_kind_is_left(rows: Rows) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    await rows.create(not_before=soon)
    await rows.create(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    await rows.create(kind=f"{rows.kind}x")
    due = await rows.create(not_before=datetime.now(UTC) - timedelta(days=1), expires_at=soon)
    epoch = await rows.take()
    assert [run.id for run in await rows.claim(epoch)] == [due.id]
    assert await rows.queue.claim(epoch, [], 8, 8) == []
    assert await rows.claim(epoch, slots=0) == []


async def test_of_several_kinds_the_older_comes_first(rows: Rows) -> None:
    other = f"{rows.kind}/b"
    made = [(await rows.create(kind=kind)).id for kind in (other, rows.kind, other, rows.kind)]
    claimed = await rows.queue.claim(await rows.take(), [rows.kind, other], 3, 8)
    assert [run.id for run in claimed] == made[:3]


async def test_without_its_lease_a_worker_claims_nothing(rows: Rows) -> None:
    run = await rows.create()
    epoch, other = await rows.take(), await rows.take()
    await rows.silence(epoch)
    await rows.leases.reap(other)
    assert await rows.claim(epoch) == []
    assert (await rows.load(run)).status == "queued"


async def test_a_claim_and_the_reaper_of_its_lease_do_not_both_win(rows: Rows) -> None:
    for _ in range(15):
        run = await rows.create()
        epoch, other = await rows.take(), await rows.take()
        await rows.silence(epoch)
        claimed, reaped = await asyncio.gather(rows.claim(epoch), rows.leases.reap(other))
        now = await rows.load(run)
        gone = await rows.scalar("select 1 from run_leases where epoch = :e", e=epoch) is None
        if not claimed or run.id in reaped:
            assert (now.status, now.epoch) == ("queued", None)
        else:
            assert (now.status, now.epoch, gone) == ("running", epoch, False)
        await rows.queue.force_cancel(rows.tenant, run.id)


async def test_a_claim_and_a_cancellation_do_not_both_win(rows: Rows) -> None:
    epoch = await rows.take()
    for _ in range(15):
        run = await rows.create()
        claimed, told = await asyncio.gather(
            rows.claim(epoch), rows.queue.request_cancel(rows.tenant, run.id)
        )
        assert told == ("running" if claimed else "cancelled")
        now = await rows.load(run)
        assert (now.status, now.cancel_requested) == (told, True)
        assert len(await rows.told(run)) == 2
        await rows.queue.force_cancel(rows.tenant, run.id)


async def test_a_claim_locks_no_run_that_it_does_not_start(
    rows: Rows, control: AsyncEngine
) -> None:
    await flood(rows, 50)
    given: dict[str, Any] = {"kinds": [rows.kind], "slots": 3, "share": 8}
    free = text(
        "select count(*) from (select from runs where tenant = :t and status = 'queued' "
        "for update skip locked) free"
    )
    async with control.connect() as one, control.connect() as two:
        rows_taken = (await one.execute(CLAIM, {"epoch": await rows.take(), **given})).all()
        assert len(rows_taken) == 3
        assert await two.scalar(free, {"t": rows.tenant}) == 47
        await two.rollback()
        await one.rollback()


async def test_a_claim_costs_the_same_however_long_the_queue_is(
    rows: Rows, control: AsyncEngine
) -> None:
    async with control.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(
            text("vacuum runs")
        )  # the pages of what others deleted do not count
    small = (await others(rows, 1))[0]
    await flood(small, 20)
    epoch = await rows.take()
    short = await pages_read(control, rows, epoch)
    await flood(rows, 10_000)
    await flood(rows, 5_000, kind=f"{rows.kind}x")  # nobody knows this kind
    await flood(small, 5_000, later=3600)
    long = await pages_read(control, rows, epoch)
    assert long < 2.5 * short + 100, (short, long)
    await rows.execute("delete from runs where tenant in (:a, :b)", a=rows.tenant, b=small.tenant)


async def pages_read(control: AsyncEngine, rows: Rows, epoch: int) -> int:
    """Return how many pages the plan of one claim touches."""
    statement = CLAIM.text
    values = {"epoch": str(epoch), "kinds": f"array['{rows.kind}']", "slots": "8", "share": "8"}
    for name, value in values.items():
        statement = re.sub(rf"(?<!:):{name}\b", value, statement)
    async with control.connect() as tx:
        plan = (await tx.exec_driver_sql(f"explain (analyze, buffers) {statement}")).scalars().all()
        await tx.rollback()
    assert not [line for line in plan if "Seq Scan on runs" in line]
    top = next(line for line in plan if "Buffers:" in line)
    return sum(map(int, re.findall(r"(?:hit|read)=(\d+)", top)))
