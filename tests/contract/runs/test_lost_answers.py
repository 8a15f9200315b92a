"""A change whose answer got lost is sent again: it must not undo what came of it, though the lease is the same."""

from __future__ import annotations

from tests.contract.runs.rows import QUESTION, Rows


async def test_a_suspension_sent_again_does_not_ask_what_was_answered(rows: Rows) -> None:
    run, epoch = await rows.running()
    assert await rows.queue.suspend(run.id, epoch, "ask/1", QUESTION, attempt=run.attempt)
    assert await rows.queue.answer(rows.tenant, run.id, "req_1", "yes") == "ok"
    (resumed,) = await rows.claim(epoch)
    assert not await rows.queue.suspend(run.id, epoch, "ask/1", QUESTION, attempt=run.attempt)
    assert (await rows.load(run)).status == "running"
    assert await rows.queue.suspend(run.id, epoch, "ask/2", QUESTION, attempt=resumed.attempt)


async def test_a_retry_sent_again_does_not_count_twice(rows: Rows) -> None:
    run, epoch = await rows.running(max_retries=2)
    assert await rows.queue.hand_back(run.id, epoch, attempt=run.attempt, retry=True)
    await rows.claim(epoch)
    assert not await rows.queue.hand_back(run.id, epoch, attempt=run.attempt, retry=True)
    found = await rows.load(run)
    assert (found.status, found.attempt, found.retries) == ("running", 2, 1)
