"""The queue of runs: creation, ends, hand-backs, questions, cancellation and lists."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.runs.record import Outcome
from tests.contract.runs.rows import COMPLETED, QUESTION, Rows

NASTY = {
    "nul\0": "a\0b",
    "surrogate": "\ud800",
    "nan": float("nan"),
    "inf": [float("inf")],
    "bytes": b"\xff\xfe",
    "huge": 10**5000,
}
TIDY = {
    "nul\ufffd": "a\ufffdb",
    "surrogate": "?",
    "nan": None,
    "inf": [None],
    "bytes": "\ufffd\ufffd",
    "huge": "[cut: 16610 bits in all]",
}


async def test_a_new_run_is_queued_told_and_journalled(rows: Rows) -> None:
    run = rows.run(
        agent="helper", definition={"d": [1]}, priority=3, max_retries=2, timeout_seconds=4.5,
        ttl_seconds=60.0, origin="schedule://s", key_id="key_1",
    )  # fmt: skip
    created, new = await rows.queue.create(run)
    assert new
    assert created.status == "queued"
    assert created.created_at is not None
    loaded = await rows.load(run)
    for name in ("agent", "definition", "priority", "max_retries", "timeout_seconds", "grant"):
        assert getattr(loaded, name) == getattr(run, name)
    assert await rows.told(run) == [{"type": "status", "status": "queued"}]
    assert await rows.journalled(run) == ["queued"]


async def test_the_same_run_sent_again_is_created_once(rows: Rows) -> None:
    run = rows.run()
    made = await asyncio.gather(*(rows.queue.create(run) for _ in range(5)))
    assert {(created.id, new) for created, new in made} == {(run.id, True)}
    assert await rows.journalled(run) == ["queued"]


async def test_one_live_run_has_a_dedupe_key(rows: Rows) -> None:
    made = await asyncio.gather(
        *(rows.queue.create(rows.run(dedupe_key="daily")) for _ in range(8))
    )
    assert sum(new for _, new in made) == 1
    assert len({created.id for created, _ in made}) == 1
    await rows.queue.request_cancel(rows.tenant, made[0][0].id)
    later, new = await rows.queue.create(rows.run(dedupe_key="daily"))
    assert new
    assert later.id != made[0][0].id


async def test_a_dedupe_key_is_the_tenants_own(rows: Rows, stranger: Principal) -> None:
    await rows.create(dedupe_key="daily")
    _, new = await Rows(rows.control, stranger.tenant).queue.create(
        rows.run(dedupe_key="daily", tenant=stranger.tenant)
    )
    assert new


async def test_a_run_is_created_in_the_callers_transaction(
    rows: Rows, control: AsyncEngine
) -> None:
    gone, kept = rows.run(), rows.run()
    async with control.connect() as tx:
        await rows.queue.create(gone, tx)
        await tx.rollback()
        await rows.queue.create(kept, tx)
        await tx.commit()
    assert await rows.queue.load(rows.tenant, gone.id) is None
    assert await rows.journalled(gone) == []
    assert (await rows.load(kept)).status == "queued"


async def test_an_input_that_is_too_long_is_refused_and_not_cut(rows: Rows) -> None:
    with pytest.raises(InvalidInput, match="16,000,000"):
        await rows.create(input={"text": "x" * 16_000_000})
    text = "é" * 2_000_000
    assert (await rows.load(await rows.create(input=text))).input == text


async def test_a_run_ends_with_its_last_events_and_its_output(rows: Rows) -> None:
    run, epoch = await rows.running(ttl_seconds=3600.0)
    outcome = Outcome(
        status="completed", output={"n": 1}, usage={"tokens": 3}, events=[{"type": "message"}]
    )
    ended = await rows.queue.end(run.id, epoch, outcome)
    assert ended is not None
    assert (ended.status, ended.output) == ("completed", {"n": 1})
    assert ended.usage == {"tokens": 3}
    assert ended.epoch is None
    assert ended.ended_at is not None
    assert ended.purge_at is not None
    assert timedelta(minutes=59) < ended.purge_at - ended.ended_at < timedelta(minutes=61)
    told = [event.get("status", event["type"]) for event in await rows.told(run)]
    assert told == ["queued", "running", "message", "completed"]
    assert await rows.queue.end(run.id, epoch, outcome) is None


async def test_without_a_time_to_live_a_run_is_kept(rows: Rows) -> None:
    run, epoch = await rows.running()
    ended = await rows.queue.end(run.id, epoch, COMPLETED)
    assert ended is not None
    assert ended.purge_at is None


@pytest.mark.parametrize("seconds", [1e300, float("inf"), float("nan"), -1.0])
async def test_a_time_to_live_beyond_all_dates_does_not_refuse_the_end(
    rows: Rows, seconds: float
) -> None:
    run, epoch = await rows.running(ttl_seconds=seconds)
    ended = await rows.queue.end(run.id, epoch, COMPLETED)
    assert ended is not None
    assert ended.purge_at is not None


async def test_a_failure_tells_its_error_and_whether_it_is_a_dead_letter(rows: Rows) -> None:
    run, epoch = await rows.running()
    error = {"code": "timeout", "message": "late"}
    await rows.queue.end(run.id, epoch, Outcome(status="failed", error=error, dead_letter=True))
    failed = await rows.load(run)
    assert (failed.error, failed.dead_letter) == (error, True)
    assert (await rows.told(run))[-1] == {"type": "status", "status": "failed", "error": error}


@pytest.mark.parametrize("where", ["output", "events", "step", "answer", "input"])
async def test_what_no_json_can_hold_is_cleaned_and_the_run_goes_on(rows: Rows, where: str) -> None:
    run, epoch = await rows.running(input=NASTY if where == "input" else None)
    if where == "step":
        assert await rows.steps.finish(run.id, epoch, "call/1", NASTY, 3, [])
        assert (await rows.steps.load(run.id))["call/1"].result == TIDY
    if where == "events":
        assert await rows.events.append(run.id, epoch, 3, [NASTY | {"type": "x"}])
        assert (await rows.told(run))[-1] == TIDY | {"type": "x"}
    if where == "answer":
        await rows.queue.suspend(run.id, epoch, "ask/1", QUESTION)
        assert await rows.queue.answer(rows.tenant, run.id, None, NASTY) == "ok"
        assert (await rows.steps.load(run.id))["ask/1"].result == TIDY
        (run,) = await rows.claim(epoch)
    outcome = Outcome(status="completed", output=NASTY if where == "output" else None)
    ended = await rows.queue.end(run.id, epoch, outcome)
    assert ended is not None
    assert (ended.output if where == "output" else None) == (TIDY if where == "output" else None)
    stored = await rows.load(run)
    assert (stored.input if where == "input" else None) == (TIDY if where == "input" else None)


async def test_a_result_of_50_mb_is_cut_and_says_how_long_it_was(rows: Rows) -> None:
    run, epoch = await rows.running()
    big = "x" * 50_000_000
    event = {"type": "tool_finished", "call": "c", "text": big, "is_error": False}
    assert await rows.events.append(run.id, epoch, 3, [event])
    ended = await rows.queue.end(run.id, epoch, Outcome(status="completed", output={"text": big}))
    assert ended is not None
    assert 3_900_000 < len(ended.output["text"]) < 4_000_000
    told = (await rows.told(run))[2]
    assert (told["call"], told["is_error"]) == ("c", False)
    assert 900_000 < len(told["text"]) < 1_000_000
    assert told["text"].endswith("x[cut: 50000000 characters in all]")


async def test_a_run_handed_back_keeps_its_place_and_its_number_of_retries(rows: Rows) -> None:
    run, epoch = await rows.running(max_retries=2)
    assert await rows.queue.hand_back(run.id, epoch)
    queued = await rows.load(run)
    assert (queued.status, queued.retries, queued.not_before) == ("queued", 0, run.not_before)
    (again,) = await rows.claim(epoch)
    assert (again.attempt, again.started_at) == (2, run.started_at)
    assert (await rows.told(run))[-1] == {"type": "status", "status": "running", "attempt": 2}


async def test_a_retry_waits_for_its_time_and_tells_why(rows: Rows) -> None:
    run, epoch = await rows.running(max_retries=2)
    error = {"code": "unavailable", "message": "away"}
    assert await rows.queue.hand_back(run.id, epoch, delay_seconds=3600, error=error, retry=True)
    queued = await rows.load(run)
    assert queued.retries == 1
    assert queued.not_before is not None
    assert queued.not_before > datetime.now(UTC) + timedelta(minutes=50)
    assert await rows.claim(epoch) == []
    retry = {"type": "retry", "attempt": 1, "delay_seconds": 3600, "error": error}
    assert (await rows.told(run))[-2:] == [retry, {"type": "status", "status": "queued"}]


async def test_an_answer_finishes_the_step_and_queues_the_run(rows: Rows) -> None:
    run = await rows.waiting()
    assert run.request == QUESTION | {"step": "ask/1"}
    assert run.epoch is None
    assert await rows.queue.answer(rows.tenant, run.id, "req_1", {"yes": True}) == "ok"
    assert (await rows.steps.load(run.id))["ask/1"].result == {"yes": True}
    told = await rows.told(run)
    assert told[-2:] == [
        {"type": "input", "request": "req_1", "answer": {"yes": True}},
        {"type": "status", "status": "queued"},
    ]
    assert (await rows.load(run)).request is None


async def test_of_many_answers_the_first_counts(rows: Rows) -> None:
    run = await rows.waiting()
    said = await asyncio.gather(
        *(rows.queue.answer(rows.tenant, run.id, "req_1", number) for number in range(8))
    )
    assert sorted(said) == ["answered"] * 7 + ["ok"]
    assert (await rows.steps.load(run.id))["ask/1"].result == said.index("ok")


async def test_an_answer_to_another_question_or_to_none_is_refused(
    rows: Rows, stranger: Principal
) -> None:
    run = await rows.waiting()
    assert await rows.queue.answer(rows.tenant, run.id, "req_2", 1) == "not_waiting"
    assert await rows.queue.answer(stranger.tenant, run.id, "req_1", 1) == "not_waiting"
    assert await rows.queue.answer(rows.tenant, run.id, None, 1) == "ok"
    assert await rows.queue.answer(rows.tenant, run.id, None, 2) == "not_waiting"
    assert await rows.queue.answer(rows.tenant, run.id, "req_1", 2) == "answered"
    epoch = await rows.take()
    (again,) = await rows.claim(epoch)
    await rows.queue.suspend(again.id, epoch, "ask/2", QUESTION | {"id": "req_2"})
    assert await rows.queue.answer(rows.tenant, run.id, "req_1", 2) == "answered"
    assert await rows.queue.answer(rows.tenant, run.id, "req_2", 3) == "ok"
    steps = await rows.steps.load(run.id)
    assert (steps["ask/1"].result, steps["ask/2"].result) == (1, 3)


async def test_a_request_of_several_parts_waits_for_the_last(rows: Rows) -> None:
    run = await rows.waiting(QUESTION | {"parts": {"a": {}, "b": {}}})

    async def say(part: str, answer: int) -> str:
        return await rows.queue.answer(rows.tenant, run.id, "req_1", answer, part)

    assert await say("c", 0) == "not_waiting"
    assert await say("a", 1) == "ok"
    assert await say("a", 2) == "answered"
    assert (await rows.load(run)).status == "input_required"
    assert sorted(await asyncio.gather(say("b", 3), say("b", 3))) == ["answered", "ok"]
    assert (await rows.load(run)).status == "queued"
    assert (await rows.steps.load(run.id))["ask/1"].result == {"a": 1, "b": 3}
    assert (await rows.told(run))[-3]["part"] == "a"


@pytest.mark.parametrize("status", ["queued", "input_required"])
async def test_what_waits_is_cancelled_at_once(rows: Rows, status: str) -> None:
    run = await rows.in_status(status)
    assert await rows.queue.request_cancel(rows.tenant, run.id) == "cancelled"
    assert (await rows.load(run)).status == "cancelled"
    assert await rows.queue.request_cancel(rows.tenant, run.id) == "cancelled"
    assert (await rows.journalled(run))[-1] == "cancelled"
    assert await rows.claim(await rows.take()) == []


async def test_the_worker_of_a_running_run_is_asked(rows: Rows) -> None:
    run, epoch = await rows.running()
    assert await rows.queue.held(epoch) == {run.id: False}
    assert await rows.queue.request_cancel(rows.tenant, run.id) == "running"
    assert await rows.queue.held(epoch) == {run.id: True}
    assert await rows.queue.held(epoch + 1) == {}


async def test_a_run_to_be_cancelled_does_not_go_back_or_wait(rows: Rows) -> None:
    first, epoch = await rows.running()
    await rows.queue.request_cancel(rows.tenant, first.id)
    assert await rows.queue.suspend(first.id, epoch, "ask/1", QUESTION)
    assert (await rows.load(first)).status == "cancelled"
    second, epoch = await rows.running()
    await rows.queue.request_cancel(rows.tenant, second.id)
    assert await rows.queue.hand_back(second.id, epoch)
    assert (await rows.load(second)).status == "cancelled"


async def test_a_stuck_worker_does_not_keep_its_run(rows: Rows, stranger: Principal) -> None:
    run, epoch = await rows.running()
    assert not await rows.queue.force_cancel(stranger.tenant, run.id)
    assert await rows.queue.force_cancel(rows.tenant, run.id)
    assert not await rows.queue.force_cancel(rows.tenant, run.id)
    assert await rows.queue.held(epoch) == {}


async def test_of_cancel_answer_and_expiry_one_wins(rows: Rows) -> None:
    for _ in range(10):
        run = await rows.waiting(expires_at=datetime.now(UTC) + timedelta(hours=1))
        await rows.execute(
            "update runs set expires_at = clock_timestamp() where id = :run", run=run.id
        )
        answer, cancelled, expired = await asyncio.gather(
            rows.queue.answer(rows.tenant, run.id, "req_1", 1),
            rows.queue.request_cancel(rows.tenant, run.id),
            rows.sweep.expire(),
        )
        ways = (await rows.journalled(run))[3:]
        assert ways in (["cancelled"], ["expired"], ["queued", "cancelled"], ["queued", "expired"])
        assert (answer == "ok") == (ways[0] == "queued")
        assert (run.id in expired) == (ways[-1] == "expired")
        assert cancelled == (await rows.load(run)).status
        assert [e["status"] for e in await rows.told(run) if e["type"] == "status"][3:] == ways


async def test_a_page_follows_the_one_before(rows: Rows) -> None:
    made = [(await rows.create(output=None)).id for _ in range(7)]
    await rows.execute("update runs set created_at = now() where tenant = :t", t=rows.tenant)
    seen: list[str] = []
    cursor: tuple[datetime, str] | None = None
    while page := await rows.queue.page(rows.tenant, limit=3, cursor=cursor):
        seen += [run.id for run in page]
        assert page[-1].created_at is not None
        cursor = page[-1].created_at, page[-1].id
        assert page[0].input is None
    assert seen == sorted(made, reverse=True)


async def test_a_list_shows_what_was_asked_for(rows: Rows, stranger: Principal) -> None:
    done, epoch = await rows.running(agent="a", subject="ann", key_id="k1")
    await rows.queue.end(done.id, epoch, COMPLETED)
    ours = await rows.create(agent="b", subject="ann")
    theirs = await rows.create(kind="agent", origin=f"run://{done.id}")
    await Rows(rows.control, stranger.tenant).create()

    async def listed(**filters: Any) -> set[str]:
        return {run.id for run in await rows.queue.page(rows.tenant, limit=10, **filters)}

    assert await listed() == {done.id, ours.id, theirs.id}
    assert await listed(status="completed") == {done.id}
    assert await listed(agent="b") == {ours.id}
    assert await listed(kind="agent") == {theirs.id}
    assert await listed(kind="tool") == {done.id, ours.id}
    assert await listed(kind="too_") == set()
    assert await listed(created_by=("ann", None)) == {ours.id}
    assert await listed(created_by=("ann", "k1")) == {done.id}
    assert [run.id for run in await rows.queue.children(done)] == [theirs.id]
    assert await rows.queue.load(stranger.tenant, done.id) is None


async def test_with_the_tenant_everything_of_its_runs_goes(rows: Rows, stranger: Principal) -> None:
    other = Rows(rows.control, stranger.tenant)
    kept = await other.create()
    run, epoch = await rows.running()
    await rows.steps.begin(run.id, epoch, "call/1")
    await rows.waiting()
    row = {"t": rows.tenant, "run": run.id}
    await rows.execute(
        "insert into effects (tenant, key, verb, uri) values (:t, :run, 'write', 'kv://a/b')", **row
    )
    await rows.execute(
        "insert into schedules (id, tenant, subject, grant_scopes, name, timing, work, missed, "
        "version) values (:run, :t, 's', '{}', 'n', '{}', '{}', 'skip', 1)",
        **row,
    )
    await rows.execute(
        "insert into triggers (id, tenant, subject, grant_scopes, name, condition, work, "
        "position_xid, position_seq, version) "
        "values (:run, :t, 's', '{}', 'n', '{}', '{}', '1', 1, 1)",
        **row,
    )
    await rows.execute("delete from tenants where name = :t", t=rows.tenant)
    for table in ("runs", "effects", "schedules", "triggers"):
        count = f"select count(*) from {table} where tenant = :t"
        assert await rows.scalar(count, t=rows.tenant) == 0, table
    for table in ("run_events", "run_steps"):
        assert await rows.scalar(f"select count(*) from {table} where run = :run", run=run.id) == 0
    assert await rows.events.read(run.id, 0) == ([], None)
    assert not await rows.events.append(run.id, epoch, 3, [{"type": "x"}])
    assert await other.load(kept)
