"""The events of runs: numbered without gaps whoever writes, read from any number, bounded in size."""

from __future__ import annotations

import asyncio
import random

from mcp_server.runs.events import MOST_BYTES_READ
from tests.contract.runs.rows import COMPLETED, Rows


async def test_frames_follow_each_other(rows: Rows) -> None:
    run, epoch = await rows.running()
    assert not await rows.events.append(run.id, epoch, 4, [{"type": "x"}])
    assert not await rows.events.append(run.id, epoch, 2, [{"type": "x"}])
    assert await rows.events.append(run.id, epoch, 3, [{"type": "a"}, {"type": "b"}])
    assert await rows.events.append(run.id, epoch, 5, [{"type": "c"}])
    assert [event["type"] for event in await rows.told(run)][2:] == ["a", "b", "c"]


async def test_two_epochs_that_write_at_once_leave_no_gap(rows: Rows) -> None:
    run, old = await rows.running()
    new = await rows.take()

    async def write(epoch: int, first: int, most: int) -> int:
        """Append frames of one to three events until one is refused."""
        seq = first
        for number in range(most):
            events = [{"type": "x", "epoch": epoch, "n": number}] * random.randint(1, 3)
            if not await rows.events.append(run.id, epoch, seq, events):
                break
            seq += len(events)
        return seq - first

    async def take_over() -> int:
        await rows.silence(old)
        while run.id not in await rows.leases.reap(new):
            pass
        while not (batch := await rows.claim(new)):  # an append under the old epoch holds the row
            pass
        (claimed,) = batch
        return await write(new, claimed.last_seq + 1, 20)

    by_old, by_new = await asyncio.gather(write(old, 3, 1000), take_over())
    told = await rows.told(run)
    assert len(told) == 2 + by_old + 2 + by_new
    writers = [event.get("epoch") for event in told]
    assert writers == [None] * 2 + [old] * by_old + [None] * 2 + [new] * by_new


async def test_writers_under_one_epoch_do_not_share_a_number(rows: Rows) -> None:
    run, epoch = await rows.running()
    sent = await asyncio.gather(
        *(rows.events.append(run.id, epoch, 3, [{"type": "x", "n": n}]) for n in range(8))
    )
    assert sent.count(True) == 1
    assert (await rows.told(run))[-1]["n"] == sent.index(True)


async def test_events_are_read_from_any_number(rows: Rows) -> None:
    run, epoch = await rows.running()
    await rows.events.append(run.id, epoch, 3, [{"type": "x"}] * 5)
    await rows.queue.end(run.id, epoch, COMPLETED)
    for after in range(10):
        events, status = await rows.events.read(run.id, after)
        assert [event["seq"] for event in events] == list(range(after + 1, 9))
        assert status == "completed"
    assert await rows.events.read("run_" + "0" * 32, 0) == ([], None)


async def test_one_read_is_bounded_in_frames_and_bytes(rows: Rows) -> None:
    run, epoch = await rows.running()
    for seq in range(3, 15):
        event = {"type": "x", "text": "y" * 900_000}
        assert await rows.events.append(run.id, epoch, seq, [event])
    assert len((await rows.events.read(run.id, 0, 3))[0]) == 3
    events, _ = await rows.events.read(run.id, 0, 1000)
    assert 2 + 8 <= len(events) <= 2 + 10
    seen = len(events)
    while events := (await rows.events.read(run.id, seen, 1000))[0]:
        assert sum(len(event["text"]) for event in events) < MOST_BYTES_READ + 1_000_000
        assert events[0]["seq"] == seen + 1
        seen += len(events)
    assert seen == 14


async def test_a_frame_above_the_bound_is_read_alone(rows: Rows) -> None:
    run, epoch = await rows.running()
    big = [{"type": "x", "text": "y" * 990_000}] * 10
    assert await rows.events.append(run.id, epoch, 3, big)
    assert len((await rows.events.read(run.id, 2))[0]) == 10


async def test_where_many_runs_stand_is_one_query(rows: Rows) -> None:
    run, epoch = await rows.running()
    await rows.events.append(run.id, epoch, 3, [{"type": "x"}])
    other = await rows.create()
    seen = await rows.events.last([run.id, other.id, "run_gone"])
    assert seen == {run.id: (3, "running"), other.id: (1, "queued")}
    assert await rows.events.last([]) == {}


async def test_the_newest_progress_stands_in_the_row(rows: Rows) -> None:
    run, epoch = await rows.running()
    done = [{"type": "progress", "done": n, "total": 3} for n in (1, 2)]
    await rows.events.append(run.id, epoch, 3, [*done, {"type": "x"}])
    assert (await rows.load(run)).progress == {"done": 2, "total": 3}
    await rows.events.append(run.id, epoch, 6, [{"type": "x"}])
    await rows.steps.finish(run.id, epoch, "call/1", 1, 7, [{"type": "progress", "done": 3}])
    assert (await rows.load(run)).progress == {"done": 3}
