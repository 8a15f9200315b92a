"""Runs that go on with one conversation: one at a time, in their order, however the first one ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcp_server.runs.record import Outcome, Run
from tests.contract.runs.rows import COMPLETED, Rows

PLACE = "conv_1"


async def queued(rows: Rows, count: int, **fields: Any) -> list[Run]:
    return [await rows.create(**{"conversation": PLACE, **fields}) for _ in range(count)]


async def test_of_one_conversation_the_oldest_run_alone_is_claimed(rows: Rows) -> None:
    runs = await queued(rows, 3)
    other = await rows.create(conversation="conv_2")
    free = await rows.create()
    epoch = await rows.take()
    for expected in (runs[0], runs[1], runs[2]):
        claimed = {run.id for run in await rows.claim(epoch)} - {other.id, free.id}
        assert claimed == {expected.id}
        assert await rows.claim(epoch) == []
        assert await rows.queue.end(expected.id, epoch, COMPLETED) is not None


async def test_many_workers_at_once_never_begin_two_runs_of_one_conversation(rows: Rows) -> None:
    runs = await queued(rows, 12)
    epochs = [await rows.take() for _ in range(4)]
    begun: list[str] = []
    while len(begun) < len(runs):
        claims = await asyncio.gather(*(rows.claim(epoch) for epoch in epochs))
        ((run, epoch),) = [
            (run, epoch) for epoch, claimed in zip(epochs, claims, strict=True) for run in claimed
        ]
        begun.append(run.id)
        await asyncio.gather(
            rows.queue.end(run.id, epoch, COMPLETED), *(rows.claim(each, 0) for each in epochs)
        )
    assert begun == [run.id for run in runs]


@pytest.mark.parametrize("how", ["failed", "cancelled", "expired", "worker died", "handed back"])
async def test_however_the_first_run_ends_the_next_one_goes_on(rows: Rows, how: str) -> None:
    first, second = await queued(rows, 2)
    epoch = await rows.take()
    (claimed,) = await rows.claim(epoch)
    assert claimed.id == first.id
    if how in {"worker died", "handed back"}:  # that is no end: it keeps its turn
        if how == "worker died":
            await rows.silence(epoch)
            epoch = await rows.take()
            assert first.id in await rows.leases.reap(epoch)
        else:
            assert await rows.queue.hand_back(first.id, epoch, delay_seconds=0)
        (again,) = await rows.claim(epoch)
        assert again.id == first.id
        assert await rows.queue.end(first.id, epoch, COMPLETED) is not None
    elif how == "cancelled":
        assert await rows.queue.force_cancel(rows.tenant, first.id)
    elif how == "expired":
        await rows.execute(
            "update runs set expires_at = clock_timestamp() where id = :run", run=first.id
        )
        assert first.id in await rows.sweep.expire()
    else:
        assert await rows.queue.end(first.id, epoch, Outcome(status="failed")) is not None
    (claimed,) = await rows.claim(await rows.take())
    assert claimed.id == second.id


async def test_a_run_that_waits_for_a_person_keeps_its_turn(rows: Rows) -> None:
    waiting = await rows.waiting(conversation=PLACE)
    (later,) = await queued(rows, 1)
    epoch = await rows.take()
    assert await rows.claim(epoch) == []
    await rows.queue.answer(rows.tenant, waiting.id, None, "yes")
    assert [run.id for run in await rows.claim(epoch)] == [waiting.id]
    assert (await rows.load(later)).status == "queued"


async def test_a_run_that_is_cancelled_while_it_waits_its_turn_holds_up_nobody(rows: Rows) -> None:
    first, second, third = await queued(rows, 3)
    epoch = await rows.take()
    assert [run.id for run in await rows.claim(epoch)] == [first.id]
    assert await rows.queue.request_cancel(rows.tenant, second.id) == "cancelled"
    assert await rows.claim(epoch) == []
    await rows.queue.end(first.id, epoch, COMPLETED)
    assert [run.id for run in await rows.claim(epoch)] == [third.id]


@pytest.mark.parametrize("end", ["expired", "failed", "cancelled", "completed"])
@pytest.mark.parametrize("status", ["queued", "running", "input_required"])
async def test_what_a_run_began_is_cancelled_unless_that_run_completes(
    rows: Rows, end: Any, status: str
) -> None:
    parent = await rows.in_status(end)
    child = await rows.in_status(status, origin=f"run://{parent.id}")
    grandchild = await rows.create(origin=f"run://{child.id}")
    swept = await rows.sweep.orphans()
    wanted = status if end == "completed" else "cancelled"
    assert (await rows.load(child)).status == wanted
    assert (await rows.load(grandchild)).status == ("queued" if end == "completed" else "cancelled")
    assert ({child.id, grandchild.id} <= set(swept)) == (end != "completed")
    if end != "completed":
        assert (await rows.told(child))[-1] == {"type": "status", "status": "cancelled"}
        assert (await rows.journalled(child))[-1] == "cancelled"


async def test_a_run_asks_what_another_one_asks_only_as_long_as_that_one_does(rows: Rows) -> None:
    child = await rows.waiting()
    asked = {"id": "ask_1", "kind": "question", "message": "a: sure?", "schema": None}
    of = {"child": {"run": child.id, "request": "req_1"}}
    parent = await rows.another().waiting(asked | of)
    assert parent.id not in await rows.sweep.answered()
    await rows.queue.answer(rows.tenant, child.id, "req_1", "yes")
    assert parent.id in await rows.sweep.answered()
    again = await rows.load(parent)
    assert (again.status, again.request) == ("queued", None)
    assert (await rows.told(parent))[-1] == {"type": "status", "status": "queued"}
    assert parent.id not in await rows.sweep.answered()
