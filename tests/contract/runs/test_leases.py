"""Leases: held while renewed, taken away once by others, and never used again."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.runs.leases import MAX_STRIKES, Leases
from tests.contract.runs.rows import QUESTION, Rows, record


async def leases(rows: Rows) -> set[int]:
    async with rows.control.connect() as connection:
        return set(await connection.scalars(text("select epoch from run_leases")))


async def test_every_lease_has_an_epoch_that_was_never_used(rows: Rows) -> None:
    first = await rows.take()
    await rows.leases.give_up(first)
    assert await rows.take() > first
    assert first not in await leases(rows)


async def test_a_lease_that_expired_may_be_renewed_until_somebody_reaps_it(rows: Rows) -> None:
    run, epoch = await rows.running()
    other = await rows.take()
    await rows.silence(epoch)
    assert await rows.leases.renew(epoch)
    assert run.id not in await rows.leases.reap(other)
    await rows.silence(epoch)
    assert run.id in await rows.leases.reap(other)
    assert not await rows.leases.renew(epoch)
    assert epoch not in await leases(rows)


async def test_a_lease_holds_as_long_as_it_says(rows: Rows) -> None:
    short = Leases(rows.control, record, seconds=-1)
    epoch = await short.take("tester", 1)
    await rows.leases.reap(await rows.take())
    assert epoch not in await leases(rows)
    assert await rows.take() in await leases(rows)


async def test_a_worker_does_not_reap_itself_or_the_living(rows: Rows) -> None:
    run, epoch = await rows.running()
    living, other_epoch = await rows.running()
    await rows.silence(epoch)
    taken = await rows.leases.reap(epoch)
    assert run.id not in taken
    assert living.id not in taken
    assert {epoch, other_epoch} <= await leases(rows)


async def test_nothing_is_taken_when_time_has_jumped_for_all(rows: Rows) -> None:
    """The clock was set forward, or the machine slept: who comes first must not take from the living."""
    run, epoch = await rows.running()
    other = await rows.take()
    await rows.silence(epoch)
    await rows.silence(other)
    assert run.id not in await rows.leases.reap(other)
    renewal = await rows.leases.renew(other)
    assert renewal is not None
    assert renewal.left < 0
    renewal = await rows.leases.renew(epoch)
    assert renewal is not None
    assert renewal.left < 0
    assert run.id not in await rows.leases.reap(other)
    await rows.silence(epoch)
    assert run.id in await rows.leases.reap(other)


async def test_the_runs_of_the_dead_are_queued_again(rows: Rows) -> None:
    runs = {(await rows.create()).id for _ in range(5)}
    epoch = await rows.take()
    await rows.claim(epoch)
    await rows.silence(epoch)
    other = await rows.take()
    assert runs <= set(await rows.leases.reap(other))
    again = await rows.claim(other)
    assert {run.id for run in again} == runs
    assert {run.attempt for run in again} == {2}
    told = [event["status"] for event in await rows.told(again[0])]
    assert told == ["queued", "running", "queued", "running"]
    assert await rows.journalled(again[0]) == told


async def test_a_dead_workers_run_that_was_to_be_cancelled_is(rows: Rows) -> None:
    run, epoch = await rows.running(ttl_seconds=60.0)
    await rows.queue.request_cancel(rows.tenant, run.id)
    await rows.silence(epoch)
    await rows.leases.reap(await rows.take())
    ended = await rows.load(run)
    assert ended.status == "cancelled"
    assert ended.purge_at is not None
    assert (await rows.told(run))[-1] == {"type": "status", "status": "cancelled"}


async def test_two_reapers_take_a_run_once(rows: Rows) -> None:
    for _ in range(8):
        rows = rows.another()
        run, epoch = await rows.running()
        others = [await rows.take() for _ in range(4)]
        await rows.silence(epoch)
        taken = await asyncio.gather(*map(rows.leases.reap, others))
        assert sum(run.id in reaped for reaped in taken) == 1
        assert len(await rows.told(run)) == 3


async def test_of_a_heartbeat_and_a_reaper_one_wins(rows: Rows) -> None:
    for _ in range(20):
        rows = rows.another()
        run, epoch = await rows.running()
        other = await rows.take()
        await rows.silence(epoch)
        renewed, reaped = await asyncio.gather(rows.leases.renew(epoch), rows.leases.reap(other))
        assert (renewed is None) == (run.id in reaped)
        assert (await rows.load(run)).status == ("queued" if renewed is None else "running")


@pytest.mark.parametrize("action", ["end", "append", "hand_back", "suspend"])
async def test_of_the_workers_own_write_and_a_reaper_both_are_seen_in_order(
    rows: Rows, action: str
) -> None:
    for _ in range(8):
        rows = rows.another()
        run, epoch = await rows.running()
        other = await rows.take()
        await rows.silence(epoch)
        write = {
            "end": rows.queue.force_cancel(rows.tenant, run.id),
            "append": rows.events.append(run.id, epoch, 3, [{"type": "x"}]),
            "hand_back": rows.queue.hand_back(run.id, epoch),
            "suspend": rows.queue.suspend(run.id, epoch, "ask/1", QUESTION),
        }
        for name, coroutine in write.items():
            if name != action:
                coroutine.close()
        done, reaped = await asyncio.gather(write[action], rows.leases.reap(other))
        types = [event.get("status", event["type"]) for event in await rows.told(run)]
        if run.id not in reaped:  # its row was held, or the run had left the lease already
            assert done
            for _ in range(2):
                await rows.leases.reap(other)
            assert (await rows.load(run)).status != "running"
        elif action == "append":
            assert types == ["queued", "running", *(["x"] if done else []), "queued"]
        elif action != "end":
            assert not done
            assert types == ["queued", "running", "queued"]
        assert epoch not in await leases(rows)


async def test_a_run_whose_row_is_held_is_left_for_the_next_time(
    rows: Rows, control: AsyncEngine
) -> None:
    runs = [await rows.create() for _ in range(3)]
    epoch, other = await rows.take(), await rows.take()
    await rows.claim(epoch)
    await rows.silence(epoch)
    async with control.connect() as writing:  # an effect of the worker that was silent
        held = text("select from runs where id = :run and lease = :epoch for share")
        await writing.execute(held, {"run": runs[1].id, "epoch": epoch})
        async with asyncio.timeout(5):
            taken = set(await rows.leases.reap(other))
        assert {runs[0].id, runs[2].id} <= taken
        assert runs[1].id not in taken
        assert not await rows.leases.renew(epoch)  # what is left of it is nobody's any more
        assert await rows.claim(epoch) == []
        await writing.rollback()
    assert runs[1].id in await rows.leases.reap(other)
    assert epoch not in await leases(rows)


async def test_a_lease_given_up_hands_back_what_it_held(rows: Rows) -> None:
    run, epoch = await rows.running()
    assert await rows.leases.give_up(epoch) == [run.id]
    assert (await rows.load(run)).status == "queued"
    assert await rows.leases.give_up(epoch) == []
    assert not await rows.leases.renew(epoch)


async def test_a_draining_worker_and_a_reaper_take_turns(rows: Rows) -> None:
    for _ in range(8):
        rows = rows.another()
        run, epoch = await rows.running()
        other = await rows.take()
        await rows.silence(epoch)
        mine, theirs = await asyncio.gather(rows.leases.give_up(epoch), rows.leases.reap(other))
        assert [*mine, *theirs].count(run.id) == 1
        assert len(await rows.told(run)) == 3


async def test_a_lease_given_up_while_it_claims_leaves_nothing_leased(rows: Rows) -> None:
    for _ in range(15):
        rows = rows.another()
        run, epoch, other = await rows.create(), await rows.take(), await rows.take()
        claimed, left = await asyncio.gather(rows.claim(epoch), rows.leases.give_up(epoch))
        assert [one.id for one in claimed] in ([], [run.id])
        assert left in ([], [run.id])
        await rows.leases.reap(other)
        assert (await rows.load(run)).status == "queued"
        assert epoch not in await leases(rows)


async def die(rows: Rows, run: str) -> None:
    """Claim a run with a worker that dies at once."""
    epoch, other = await rows.take(), await rows.take()
    assert [claimed.id for claimed in await rows.claim(epoch)] == [run]
    await rows.silence(epoch)
    assert run in await rows.leases.reap(other)


async def test_a_run_that_kills_its_workers_is_given_up(rows: Rows) -> None:
    run = await rows.create()
    for _ in range(MAX_STRIKES):
        await die(rows, run.id)
        assert (await rows.load(run)).status == "queued"
    await die(rows, run.id)
    failed = await rows.load(run)
    assert (failed.status, failed.dead_letter) == ("failed", True)
    assert failed.error is not None
    assert failed.error["code"] == "internal"
    assert (await rows.told(run))[-1]["error"] == failed.error


async def test_a_step_finished_between_deaths_clears_them(rows: Rows) -> None:
    run = await rows.create()
    for _ in range(MAX_STRIKES):
        await die(rows, run.id)
    epoch = await rows.take()
    (claimed,) = await rows.claim(epoch)
    assert await rows.steps.finish(run.id, epoch, "call/1", 1, claimed.last_seq + 1, [])
    await rows.leases.give_up(epoch)
    for _ in range(MAX_STRIKES):
        await die(rows, run.id)
    assert (await rows.load(run)).status == "queued"


async def test_the_oldest_living_lease_keeps_things_for_all(rows: Rows) -> None:
    """Fifty processes on one machine must not all ask the same questions twenty times a second."""
    leases = Leases(rows.control, record, seconds=1e6)  # nobody else's lease is as fresh as these
    older, younger = [await leases.take("tester", 1) for _ in range(2)]
    rows.taken += [older, younger]

    async def keepers() -> list[bool]:
        renewed = [await leases.renew(epoch) for epoch in (older, younger)]
        return [renewal is not None and renewal.keeper for renewal in renewed]

    assert await keepers() == [True, False]
    await leases.give_up(older)
    renewal = await leases.renew(younger)
    assert renewal is not None
    assert renewal.keeper
    await rows.silence(younger)
    next_one = await leases.take("tester", 1)
    rows.taken.append(next_one)
    renewal = await leases.renew(next_one)
    assert renewal is not None
    assert renewal.keeper  # whoever is silent keeps nothing
