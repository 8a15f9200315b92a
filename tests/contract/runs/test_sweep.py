"""What time does to runs, by several sweepers at once: expiry, dead keys, compaction, redaction, deletion."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.keys import KeyService
from mcp_server.runs.compaction import FRAME_BYTES
from mcp_server.runs.figures import figures
from mcp_server.runs.record import Outcome, Run
from mcp_server.runs.redaction import Redaction
from mcp_server.runs.sweep import Sweep
from tests.contract.runs.rows import COMPLETED, QUESTION, Rows, record

SECRETS = Redaction(frozenset({"password", "api_key"}))


async def frames(rows: Rows, run: Run) -> list[tuple[int, int, int]]:
    query = text(
        "select first_seq, last_seq, octet_length(events) from run_events "
        "where run = :run order by first_seq"
    )
    async with rows.control.connect() as connection:
        return [tuple(row) for row in await connection.execute(query, {"run": run.id})]


async def due(rows: Rows, column: str, run: Run) -> None:
    await rows.execute(
        f"update runs set {column} = clock_timestamp() - interval '1 s' where id = :run", run=run.id
    )


@pytest.mark.parametrize("status", ["queued", "running", "input_required"])
async def test_a_live_run_expires(rows: Rows, status: str) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    run = await rows.in_status(status, expires_at=later)
    kept = await rows.another().in_status(status, expires_at=later)
    await due(rows, "expires_at", run)
    swept = await asyncio.gather(*(rows.sweep.expire() for _ in range(4)))
    assert sum(run.id in ended for ended in swept) == 1
    assert all(kept.id not in ended for ended in swept)
    expired = await rows.load(run)
    assert (expired.status, expired.epoch, expired.request) == ("expired", None, None)
    assert expired.error is not None
    assert expired.error["code"] == "timeout"
    assert (await rows.told(run))[-1]["status"] == "expired"
    assert (await rows.journalled(run))[-1] == "expired"


async def test_many_runs_expire_in_batches(rows: Rows) -> None:
    await rows.execute(
        "insert into runs (id, tenant, subject, grant_scopes, kind, input, status, expires_at) "
        "select 'run_' || replace(gen_random_uuid()::text, '-', ''), :t, 's', '{}', :k, '1', "
        "'queued', now() from generate_series(1, 1300)",
        t=rows.tenant,
        k=rows.kind,
    )
    swept = await asyncio.gather(*(rows.sweep.expire() for _ in range(3)))
    ended = [run for batch in swept for run in batch]
    assert len(ended) == len(set(ended)) >= 1300
    count = "select count(*) from runs where tenant = :t and status = 'expired' and last_seq = 1"
    assert await rows.scalar(count, t=rows.tenant) == 1300


@pytest.mark.parametrize("status", ["queued", "running", "input_required"])
@pytest.mark.parametrize("death", ["revoked", "expired"])
async def test_the_live_runs_of_a_dead_key_fail(
    rows: Rows, control: AsyncEngine, status: str, death: str
) -> None:
    keys = KeyService(control)
    dying, living = [await keys.create("k", tenant=rows.tenant) for _ in range(2)]
    run = await rows.in_status(status, key_id=dying["id"])
    kept = await rows.another().in_status(status, key_id=living["id"])
    assert run.id not in await rows.sweep.dead_keys()
    if death == "revoked":
        await keys.revoke(dying["id"])
    else:
        await rows.execute(
            "update api_keys set expires_at = now() - interval '1 s' where id = :id",
            id=dying["id"],
        )
    assert run.id in await rows.sweep.dead_keys()
    failed = await rows.load(run)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error["code"] == "unauthenticated"
    assert (await rows.load(kept)).status == status
    assert await rows.sweep.dead_keys() == []


async def test_a_run_is_deleted_when_its_time_has_passed(rows: Rows) -> None:
    gone, epoch = await rows.running(ttl_seconds=0.0)
    await rows.steps.begin(gone.id, epoch, "call/1")
    await rows.queue.end(gone.id, epoch, COMPLETED)
    kept = await rows.in_status("completed", ttl_seconds=60.0)
    live = await rows.create(ttl_seconds=0.0)
    await asyncio.gather(*(rows.sweep.purge() for _ in range(3)))
    assert await rows.queue.load(rows.tenant, gone.id) is None
    assert await frames(rows, gone) == []
    assert await rows.steps.load(gone.id) == {}
    assert (await rows.load(kept)).status == "completed"
    assert (await rows.load(live)).status == "queued"


async def test_effects_are_kept_a_week_and_as_long_as_their_run_lives(rows: Rows) -> None:
    waiting = await rows.waiting()
    ended = await rows.another().in_status("completed")
    keys = {f"{waiting.id}/call/1": 8, f"{ended.id}/call/1": 8, f"{ended.id}/call/2": 6, "own": 8}
    for key, days in keys.items():
        await rows.execute(
            "insert into effects (tenant, key, verb, uri, at) "
            "values (:t, :key, 'write', 'kv://a/b', now() - make_interval(days => :days))",
            t=rows.tenant,
            key=key,
            days=days,
        )
    await rows.sweep.purge()
    left = text("select key from effects where tenant = :t")
    async with rows.control.connect() as connection:
        kept = set(await connection.scalars(left, {"t": rows.tenant}))
    assert kept == {f"{waiting.id}/call/1", f"{ended.id}/call/2"}


async def test_compaction_changes_neither_numbers_nor_bodies(rows: Rows) -> None:
    run, epoch = await rows.running()
    seq = 3
    for number in range(60):
        size = random.choice([1, 100, 5_000, 60_000, 140_000, 300_000])
        events = [{"type": "x", "n": number, "text": "é" * (size // 6)}] * random.randint(1, 2)
        assert await rows.events.append(run.id, epoch, seq, events)
        seq += len(events)
    await rows.steps.finish(run.id, epoch, "call/1", 1, seq, [])
    live = await rows.another().waiting()
    ended = await rows.queue.end(run.id, epoch, COMPLETED)
    before = await rows.told(run)
    parts = await frames(rows, run)
    small = {at[0] for at in parts if at[2] <= FRAME_BYTES}
    sweeps = [Sweep(rows.control, record) for _ in range(3)]
    await asyncio.gather(*(sweep.compact() for sweep in sweeps))
    assert await rows.told(run) == before
    after = await frames(rows, run)
    assert len(after) < len(parts)
    assert all(size <= FRAME_BYTES for first, _, size in after if first in small)
    assert [first for first, _, _ in after[1:]] == [last + 1 for _, last, _ in after[:-1]]
    assert await rows.steps.load(run.id) == {}
    loaded = await rows.load(run)
    assert ended is not None
    assert loaded.updated_at is not None
    assert ended.ended_at is not None
    assert abs(loaded.updated_at - ended.ended_at) < timedelta(seconds=5)
    assert len(await frames(rows, live)) == 3


async def test_a_reader_at_any_number_goes_on_after_compaction(rows: Rows) -> None:
    run, epoch = await rows.running()
    for seq in range(3, 30):
        await rows.events.append(run.id, epoch, seq, [{"type": "x", "n": seq}])
    await rows.queue.end(run.id, epoch, COMPLETED)
    await rows.sweep.compact()
    assert len(await frames(rows, run)) == 1
    for after in range(31):
        events, status = await rows.events.read(run.id, after)
        assert [event["seq"] for event in events] == list(range(after + 1, 31))
        assert status == "completed"


async def test_secrets_are_taken_out_of_what_an_ended_run_keeps(rows: Rows) -> None:
    secret: dict[str, Any] = {"Password": "hunter2", "deep": [{"API_KEY": {"a": "hunter2"}}]}
    inner = json.dumps({"sql": "select 1", "more": json.dumps(secret)})
    cut = '{"user": "ann", "password": "hunter2 and the rest was cu'
    run, epoch = await rows.running(input={"arguments": secret, "text": inner})
    calls = [
        {"type": "tool_started", "call": "c", "arguments": inner},
        {"type": "tool_finished", "call": "c", "text": cut},
        {"type": "x", "text": 'a sentence with "quotes" and password: no field', "n": 1.5},
    ]
    await rows.events.append(run.id, epoch, 3, calls)
    await rows.queue.end(run.id, epoch, Outcome(status="completed", output={"row": secret}))
    live = await rows.another().create(input=secret)
    before = await rows.told(run)
    sweeps = [Sweep(rows.control, record, SECRETS) for _ in range(3)]
    await asyncio.gather(*(sweep.compact() for sweep in sweeps))
    kept = await rows.load(run)
    told = await rows.told(run)
    assert "hunter2" not in json.dumps([kept.input, kept.output, told])
    clean = {"Password": "[redacted]", "deep": [{"API_KEY": "[redacted]"}]}
    assert kept.output == {"row": clean}
    assert kept.input["arguments"] == clean
    assert json.loads(json.loads(kept.input["text"])["more"]) == clean
    assert json.loads(told[2]["arguments"])["sql"] == "select 1"
    assert told[3]["text"] == '{"user": "ann", "password": "[redacted]"'
    assert told[4] == before[4]
    assert told[:2] == before[:2]
    assert told[-1] == before[-1]
    assert (await rows.load(live)).input == secret


async def test_secrets_in_many_frames_and_many_runs_are_found(rows: Rows) -> None:
    runs = [await rows.create(input={"password": "hunter2"}) for _ in range(25)]
    epoch = await rows.take()
    while batch := await rows.claim(epoch, slots=25):
        for run in batch:
            for seq in range(3, 6):
                await rows.events.append(run.id, epoch, seq, [{"type": "x", "password": "hunter2"}])
            await rows.queue.end(run.id, epoch, COMPLETED)
    await Sweep(rows.control, record, SECRETS).compact()
    for run in runs:
        assert (await rows.load(run)).input == {"password": "[redacted]"}
        assert [e["password"] for e in await rows.told(run) if "password" in e] == [
            "[redacted]"
        ] * 3


async def test_the_figures_count_what_there_is(rows: Rows) -> None:
    before = await figures(rows.control)
    await rows.create(not_before=datetime.now(UTC) - timedelta(seconds=90))
    await rows.create(not_before=datetime.now(UTC) + timedelta(hours=1))
    waiting = rows.another()
    await waiting.waiting(QUESTION)
    failing, epoch = await rows.another().running()
    await rows.queue.end(failing.id, epoch, Outcome(status="failed", dead_letter=True))
    await rows.another().running()
    now = await figures(rows.control)
    assert now.queues[rows.kind].depth == 2
    assert 89 < now.queues[rows.kind].oldest_seconds < 120
    assert now.waiting == before.waiting + 1
    assert now.running == before.running + 1
    assert now.dead_letters == before.dead_letters + 1
    assert now.leases >= 3
    assert now.slots >= 24
