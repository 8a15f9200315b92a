"""Schedules: saved as data, fired once for each tick, stopped with their owner's rights."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.keys import KeyService
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, LimitExceeded, NotFound
from mcp_server.operation import Operations
from mcp_server.services import standing_rows
from mcp_server.services.standing_keeper import keeping_standing
from mcp_server.storage.sql.agent_tables import agents as agents_table
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.run_tables import runs, schedules
from mcp_server.storage.sql.schema import api_keys
from mcp_server.storage.sql.wake import open_wake
from mcp_server.timestamps import iso
from tests.contract.runs.clockwork import Clockwork, open_clockwork

HOURLY = {"cron": "0 * * * *"}
WORK = {"agent": "helper", "input": "report"}
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
async def clock(
    operations: Operations, control: AsyncEngine, principal: Principal
) -> AsyncIterator[Clockwork]:
    async with open_clockwork(operations, control) as clock:
        await clock.helper(principal)
        yield clock


def next_of(item: Any) -> datetime:
    assert item["next_fire_at"] is not None
    return datetime.fromisoformat(item["next_fire_at"])


async def keyed(control: AsyncEngine, tenant: str, *scopes: str) -> Principal:
    """Return the principal of a key of its own."""
    keys = KeyService(control)
    new = await keys.create("clerk", tenant=tenant, scopes=scopes)
    return await keys.authenticate(new["key"])


async def test_a_tick_starts_the_agent_as_it_is_then(
    clock: Clockwork, principal: Principal
) -> None:
    item = await clock.schedules.save(principal, "hourly", timing=HOURLY, work=WORK)
    assert (item["enabled"], item["stopped"], item["last_fire_at"]) == (True, None, None)
    first = next_of(item)
    assert first.minute == 0
    await clock.helper(principal, instructions="Be long.")
    assert await clock.schedules.fire_due(first - timedelta(seconds=1)) == 0
    assert await clock.schedules.fire_due(first) == 1
    assert await clock.schedules.fire_due(first) == 0
    (run,) = await clock.runs(principal)
    assert (run.kind, run.agent, run.status) == ("agent", "helper", "queued")
    assert run.definition["instructions"] == "Be long."
    assert run.input["messages"] == [{"role": "user", "content": "report"}]
    assert (run.origin, run.ttl_seconds) == (f"schedule/{item['id']}", 3600)
    assert run.dedupe_key == f"schedule/{item['id']}/{iso(first)}"
    after = await clock.schedules.get(principal, "hourly")
    assert after["last_fire_at"] == iso(first)
    assert next_of(after) == first + HOUR
    assert clock.told == 1


async def test_a_tick_starts_a_long_tool_with_its_arguments(
    clock: Clockwork, principal: Principal
) -> None:
    work = {"tool": "import", "arguments": {"source": "a"}, "retries": 3, "timeout_seconds": 5}
    item = await clock.schedules.save(principal, "import", timing=HOURLY, work=work)
    await clock.schedules.fire_due(next_of(item))
    (run,) = await clock.runs(principal)
    assert (run.kind, run.input, run.definition) == (
        "tool/import",
        {"arguments": {"source": "a"}},
        {"verb": "write"},
    )
    assert (run.max_retries, run.timeout_seconds) == (3, 5)


async def test_without_a_given_time_the_database_s_clock_counts(
    clock: Clockwork, principal: Principal
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    item = await clock.schedules.save(principal, "once", timing={"at": iso(soon)}, work=WORK)
    until = time.monotonic() + 10
    while not await clock.schedules.fire_due():
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
    assert await clock.ticks(principal, item) == [soon]
    done = await clock.schedules.get(principal, "once")
    assert (done["next_fire_at"], done["last_fire_at"], done["stopped"]) == (None, iso(soon), None)


async def test_an_outage_is_made_up_for_as_each_policy_says(
    clock: Clockwork, principal: Principal
) -> None:
    timing = {"cron": "* * * * *"}
    items = {
        missed: await clock.schedules.save(
            principal, missed, timing=timing, work=WORK, missed=missed
        )
        for missed in ("skip", "once", "all")
    }
    first = max(next_of(item) for item in items.values())
    await clock.schedules.fire_due(first + timedelta(minutes=10, seconds=10))
    for missed, minutes in (("skip", [10]), ("once", [9, 10]), ("all", list(range(11)))):
        fired = [tick for tick in await clock.ticks(principal, items[missed]) if tick >= first]
        assert fired == [first + minute * MINUTE for minute in minutes], missed


async def test_a_long_catch_up_is_bounded_and_split_into_short_transactions(
    clock: Clockwork, principal: Principal
) -> None:
    timing = {"cron": "* * * * *"}
    item = await clock.schedules.save(principal, "all", timing=timing, work=WORK, missed="all")
    now = next_of(item) + timedelta(days=2, seconds=30)
    assert await clock.schedules.fire_due(now) == 1000  # the rest waits until some have ended
    ticks = await clock.ticks(principal, item)
    assert len(set(ticks)) == 1000
    assert ticks[-1] <= now


async def test_jitter_delays_the_run_and_not_the_tick(
    clock: Clockwork, principal: Principal
) -> None:
    timing = {"every_seconds": 60, "jitter_seconds": 50}
    item = await clock.schedules.save(principal, "spread", timing=timing, work=WORK)
    told = await clock.schedules.preview(principal, "spread", 3)
    for fire in told:
        await clock.schedules.fire_due(datetime.fromisoformat(fire["tick"]))
    started = await clock.runs(principal, f"schedule/{item['id']}")
    assert [iso(run.not_before) for run in started] == [fire["fires_at"] for fire in told]
    assert (
        len(
            {
                run.not_before - tick
                for run, tick in zip(started, await clock.ticks(principal, item), strict=True)
            }
        )
        == 3
    )


async def test_overlap_skip_leaves_ticks_out_while_an_earlier_run_lives(
    clock: Clockwork, principal: Principal
) -> None:
    timing = {"every_seconds": 60, "overlap": "skip"}
    item = await clock.schedules.save(principal, "one", timing=timing, work=WORK)
    first = next_of(item)
    for minute in range(3):
        await clock.schedules.fire_due(first + minute * MINUTE)
    await clock.end_runs(principal)
    await clock.schedules.fire_due(first + 3 * MINUTE)
    assert await clock.ticks(principal, item) == [first, first + 3 * MINUTE]


async def test_a_schedule_whose_runs_nobody_executes_stops_filling_the_queue(
    clock: Clockwork, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server.runs.schedules.MOST_LIVE", 3)
    item = await clock.schedules.save(principal, "busy", timing={"every_seconds": 1}, work=WORK)
    for second in range(6):
        await clock.schedules.fire_due(next_of(item) + timedelta(seconds=second))
    assert len(await clock.runs(principal)) == 3


async def test_saving_again_keeps_a_tick_that_is_due(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    timing = {"every_seconds": 3600}
    item = await clock.schedules.save(principal, "s", timing=timing, work=WORK)
    due = datetime.now(UTC) - timedelta(seconds=5)
    async with control.begin() as tx:
        await tx.execute(
            update(schedules).where(schedules.c.id == item["id"]).values(next_fire_at=due)
        )
    again = await clock.schedules.save(principal, "s", timing=timing, work={**WORK, "input": "x"})
    assert again["id"] == item["id"]
    assert again["version"] > item["version"]
    assert next_of(again) == due
    assert again["timing"] == item["timing"]  # its phase too
    other = await clock.schedules.save(principal, "s", timing={"every_seconds": 60}, work=WORK)
    assert next_of(other) > datetime.now(UTC)


async def test_saves_at_the_same_time_make_one_schedule(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    saved = await asyncio.gather(
        *(clock.schedules.save(principal, "s", timing=HOURLY, work=WORK) for _ in range(5))
    )
    assert len({item["id"] for item in saved}) == 1
    listed = await clock.schedules.list(principal)
    assert [item["version"] for item in listed] == [max(item["version"] for item in saved)]
    entries, _ = await journal.read(control, principal.tenant, None, 100)
    own = [entry for entry in entries if entry["uri"] == "schedule://s"]
    # Each replaced another one: they came one after the other.
    replaced = {entry["prev_version"] for entry in own}
    assert replaced == {None, *(item["version"] for item in saved)} - {listed[0]["version"]}
    assert len(own) == 5


async def test_a_save_with_an_idempotency_key_happens_once(
    clock: Clockwork, principal: Principal
) -> None:
    first = await clock.schedules.save(
        principal, "s", timing=HOURLY, work=WORK, idempotency_key="k"
    )
    assert first == await clock.schedules.save(
        principal, "s", timing=HOURLY, work=WORK, idempotency_key="k"
    )


async def test_a_paused_schedule_rests_and_goes_on_from_the_moment_of_its_resumption(
    clock: Clockwork, principal: Principal
) -> None:
    item = await clock.schedules.save(principal, "s", timing=HOURLY, work=WORK)
    paused = await clock.schedules.pause(principal, "s")
    assert (paused["enabled"], paused["next_fire_at"]) == (False, None)
    assert await clock.schedules.fire_due(next_of(item) + HOUR) == 0
    resumed = await clock.schedules.resume(principal, "s")
    assert (resumed["enabled"], next_of(resumed)) == (True, next_of(item))
    assert await clock.schedules.resume(principal, "s") == resumed


async def test_deleting_ends_a_schedule_and_not_its_runs(
    clock: Clockwork, principal: Principal
) -> None:
    item = await clock.schedules.save(principal, "s", timing=HOURLY, work=WORK)
    await clock.schedules.fire_due(next_of(item))
    assert await clock.schedules.delete(principal, "s")
    assert not await clock.schedules.delete(principal, "s")
    assert await clock.schedules.fire_due(next_of(item) + HOUR) == 0
    assert [run.status for run in await clock.runs(principal)] == ["queued"]
    with pytest.raises(NotFound):
        await clock.schedules.get(principal, "s")


async def test_a_preview_shows_the_next_fires_of_a_schedule_or_of_a_timing(
    clock: Clockwork, principal: Principal
) -> None:
    with pytest.raises(NotFound, match="schedule 's' does not exist"):
        await clock.schedules.preview(principal, "s")
    timing = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
    told = await clock.schedules.preview(principal, "s", 100, timing=timing)
    assert len({fire["tick"] for fire in told}) == 100
    await clock.schedules.save(principal, "s", timing=timing, work=WORK)
    assert await clock.schedules.preview(principal, "s", 100) == told
    with pytest.raises(InvalidInput, match="count: 0 is not within 1-100"):
        await clock.schedules.preview(principal, "s", 0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"timing": {"cron": "x"}}, "cron: "),
        ({"timing": {"at": "2020-01-01T00:00:00Z"}}, "at: the time has passed, it is .*later one"),
        ({"missed": "never"}, "missed: 'never' is none of skip, once, all"),
        ({"work": {}}, "work: give either agent or tool"),
        ({"work": {"agent": "helper", "tool": "import"}}, "work: give either agent or tool"),
        ({"work": {"agent": "nobody", "input": "x"}}, "work.agent: 'nobody' does not exist"),
        ({"work": {"agent": "helper"}}, "input: give a text or a list"),
        ({"work": {"agent": "helper", "input": "x", "to": 1}}, "work.to: .*; the fields are"),
        ({"work": {"agent": "helper", "input": "x" * 2**21}}, "work: it is longer than"),
        ({"work": {"agent": "helper", "input": "x", "retries": -1}}, "retries: -1"),
        ({"work": {"tool": "rm", "arguments": {}}}, "work.tool: 'rm' is none of the tools"),
        ({"work": {"tool": "import", "arguments": {"x": 1}}}, "import has no such argument"),
        ({"work": {"tool": "import", "changes_as": "changes"}}, "work.changes_as: a schedule"),
        ({"work": {"tool": "import", "arguments": {"source": float("nan")}}}, "not JSON"),
        ({"name": "a/b"}, "name: 'a/b' holds a slash"),
        ({"name": ""}, "name: "),
    ],
)
async def test_what_does_not_fit_is_refused(
    clock: Clockwork, principal: Principal, given: dict[str, Any], told: str
) -> None:
    fields: dict[str, Any] = {"name": "s", "timing": HOURLY, "work": WORK, **given}
    with pytest.raises(InvalidInput, match=told):
        await clock.schedules.save(principal, **fields)
    assert await clock.schedules.list(principal) == []


async def test_a_tenant_has_so_many_schedules_and_no_more(
    clock: Clockwork, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_rows, "MOST_ROWS", 1)
    await clock.schedules.save(principal, "a", timing=HOURLY, work=WORK)
    with pytest.raises(LimitExceeded, match="there are 1 schedules already"):
        await clock.schedules.save(principal, "b", timing=HOURLY, work=WORK)
    await clock.schedules.save(principal, "a", timing=HOURLY, work=WORK)


async def test_saving_needs_the_right_to_write_it_and_to_start_its_work(
    clock: Clockwork, principal: Principal, stranger: Principal
) -> None:
    for scopes in ({"read", "run"}, {"read", "write"}, {"write", "run:agent://other"}):
        weak = replace(principal, scopes=frozenset(scopes))
        with pytest.raises(Forbidden):
            await clock.schedules.save(weak, "s", timing=HOURLY, work=WORK)
    narrow = replace(
        principal,
        scopes=frozenset({"write:schedule://s", "run:agent://helper", "read:schedule://s*"}),
    )
    await clock.schedules.save(narrow, "s", timing=HOURLY, work=WORK)
    await clock.schedules.save(principal, "t", timing=HOURLY, work=WORK)
    assert [item["name"] for item in await clock.schedules.list(narrow)] == ["s"]
    assert await clock.schedules.list(stranger) == []
    with pytest.raises(NotFound):
        await clock.schedules.get(stranger, "s")
    with pytest.raises(NotFound):
        await clock.schedules.pause(stranger, "s")


async def test_a_revoked_key_stops_its_schedules_within_a_second(
    clock: Clockwork, principal: Principal, control: AsyncEngine, cluster: Cluster
) -> None:
    clerk = await keyed(control, principal.tenant)
    await clock.schedules.save(clerk, "s", timing={"every_seconds": 1}, work=WORK)
    await clock.schedules.save(principal, "other", timing=HOURLY, work=WORK)
    async with (
        open_wake(cluster.control_url) as wake,
        keeping_standing(clock.schedules, clock.triggers, wake),
    ):
        until = time.monotonic() + 10
        while not await clock.runs(principal):
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
        assert clerk.key_id is not None
        await KeyService(control).revoke(clerk.key_id)
        revoked, begun = datetime.now(UTC), time.monotonic()
        while (await clock.schedules.get(principal, "s"))["stopped"] is None:
            assert time.monotonic() - begun < 30
            await asyncio.sleep(0.02)
        print(f"stopped {time.monotonic() - begun:.2f} s after the revocation")
        count = len(await clock.runs(principal))
        await asyncio.sleep(1.2)  # a tick's time: there must be none
        started = await clock.runs(principal)
    assert len(started) == count
    assert all(run.created_at < revoked for run in started)
    stopped = await clock.schedules.get(principal, "s")
    assert (stopped["enabled"], stopped["next_fire_at"]) == (True, None)
    assert "revoked or expired" in (stopped["stopped"] or "")
    assert (await clock.schedules.get(principal, "other"))["stopped"] is None
    entries, _ = await journal.read(control, principal.tenant, None, 1000)
    assert ("stopped", "schedule://s") in {(entry["verb"], entry["uri"]) for entry in entries}
    with pytest.raises(Conflict, match="revoked or expired"):
        await clock.schedules.resume(principal, "s")
    again = await clock.schedules.save(principal, "s", timing={"every_seconds": 1}, work=WORK)
    assert again["stopped"] is None
    assert await clock.schedules.fire_due(next_of(again)) == 1


async def test_nothing_is_fired_for_a_dead_key_before_the_sweep_comes(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    clerk = await keyed(control, principal.tenant)
    item = await clock.schedules.save(clerk, "s", timing=HOURLY, work=WORK)
    async with control.begin() as tx:
        await tx.execute(
            update(api_keys)
            .where(api_keys.c.id == clerk.key_id)
            .values(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        )
    assert await clock.schedules.fire_due(next_of(item)) == 0
    assert await clock.runs(principal) == []
    stopped = await clock.schedules.get(principal, "s")
    assert "revoked or expired" in (stopped["stopped"] or "")
    assert await clock.schedules.stop_dead() == 0


@pytest.mark.parametrize("sweeps", [True, False])
async def test_a_key_that_lost_the_right_stops_its_schedule_and_one_that_lost_another_does_not(
    clock: Clockwork, principal: Principal, control: AsyncEngine, sweeps: bool
) -> None:
    clerk = await keyed(control, principal.tenant, "write", "read", "run")
    item = await clock.schedules.save(clerk, "s", timing=HOURLY, work=WORK)

    async def rescope(*scopes: str) -> None:
        async with control.begin() as tx:
            await tx.execute(
                update(api_keys).where(api_keys.c.id == clerk.key_id).values(scopes=list(scopes))
            )

    await rescope("read", "run:agent://helper")
    assert await clock.schedules.stop_dead() == 0
    assert await clock.schedules.fire_due(next_of(item)) == 1
    (run,) = await clock.runs(principal)
    assert sorted(run.grant_scopes) == ["read", "run:agent://helper"]
    await rescope("read", "run:agent://other", "write")
    if sweeps:
        assert await clock.schedules.stop_dead() == 1
    assert await clock.schedules.fire_due(next_of(item) + HOUR) == 0
    stopped = await clock.schedules.get(principal, "s")
    assert "may not run agent://helper" in (stopped["stopped"] or "")
    with pytest.raises(Conflict, match="may not run"):
        await clock.schedules.resume(principal, "s")
    await rescope("run")
    assert (await clock.schedules.resume(principal, "s"))["stopped"] is None


async def test_a_schedule_whose_agent_is_gone_stops_and_says_so(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    item = await clock.schedules.save(principal, "s", timing=HOURLY, work=WORK)
    tool = {"tool": "import", "arguments": {}}
    other = await clock.schedules.save(principal, "t", timing=HOURLY, work=tool)
    async with control.begin() as tx:
        await tx.execute(agents_table.delete().where(agents_table.c.tenant == principal.tenant))
    del clock.tools["import"]
    assert await clock.schedules.fire_due(max(next_of(item), next_of(other))) == 0
    told = [item["stopped"] for item in await clock.schedules.list(principal)]
    assert told == [
        "agent 'helper' does not exist any more",
        "work.tool: 'import' is none of the tools that are declared long",
    ]
    await clock.helper(principal)
    resumed = await clock.schedules.resume(principal, "s")
    assert await clock.schedules.fire_due(next_of(resumed)) == 1


async def test_a_schedule_that_cannot_be_read_stops_alone(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    bad = await clock.schedules.save(principal, "a", timing=HOURLY, work=WORK)
    good = await clock.schedules.save(principal, "b", timing=HOURLY, work=WORK)
    async with control.begin() as tx:
        lost = {"cron": "0 * * * *", "timezone": "Mars/Olympus"}
        await tx.execute(update(schedules).where(schedules.c.id == bad["id"]).values(timing=lost))
    assert await clock.schedules.fire_due(max(next_of(bad), next_of(good))) == 1
    assert "Mars/Olympus" in str((await clock.schedules.get(principal, "a"))["stopped"])
    assert len(await clock.ticks(principal, good)) == 1


async def test_a_defect_that_one_schedule_meets_does_not_keep_the_others(
    clock: Clockwork,
    principal: Principal,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await clock.schedules.save(principal, "a", timing={"every_seconds": 60}, work=WORK)
    tool = {"tool": "import"}
    good = await clock.schedules.save(principal, "b", timing={"every_seconds": 61}, work=tool)
    seconds = itertools.count()

    async def broken(*_: Any) -> None:
        raise KeyError(next(seconds))

    monkeypatch.setattr("mcp_server.services.standing_work.find_agent", broken)
    assert await clock.schedules.fire_due(next_of(good)) == 1
    assert len(await clock.ticks(principal, good)) == 1
    assert "schedule a of" in caplog.text
    monkeypatch.undo()
    assert await clock.schedules.fire_due(next_of(good)) == 1
    assert (await clock.schedules.get(principal, "a"))["stopped"] is None


async def test_an_idle_look_is_one_query(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    for number in range(50):
        await clock.schedules.save(principal, f"s{number}", timing=HOURLY, work=WORK)
    asked: list[str] = []

    @event.listens_for(control.sync_engine, "before_cursor_execute")
    def note(*given: object) -> None:
        asked.append(str(given[2]))

    begun = time.perf_counter()
    for _ in range(100):
        assert await clock.schedules.fire_due() == 0
        assert await clock.schedules.stop_dead() == 0
    took = (time.perf_counter() - begun) / 100
    print(f"an idle look at 50 schedules and a sweep: {took * 1000:.1f} ms")
    assert len(asked) == 200
    event.remove(control.sync_engine, "before_cursor_execute", note)


async def test_erasing_a_tenant_takes_its_schedules_along(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    item = await clock.schedules.save(principal, "s", timing=HOURLY, work=WORK)
    async with control.begin() as tx:
        for table in (runs, agents_table):
            await tx.execute(table.delete().where(table.c.tenant == principal.tenant))
        await tx.execute(
            text("delete from tenants where name = :tenant"), {"tenant": principal.tenant}
        )
    assert await clock.schedules.fire_due(next_of(item)) == 0


async def test_ticks_pass_while_the_agent_is_paused(clock: Clockwork, principal: Principal) -> None:
    item = await clock.schedules.save(principal, "hourly", timing=HOURLY, work=WORK)
    first = next_of(item)
    await clock.agents.pause(principal, "helper")
    assert await clock.schedules.fire_due(first) == 0
    resting = await clock.schedules.get(principal, "hourly")
    assert (resting["stopped"], resting["last_fire_at"]) == (None, None)
    assert next_of(resting) == first + HOUR
    await clock.agents.resume(principal, "helper")
    assert await clock.schedules.fire_due(first + HOUR) == 1
    assert await clock.ticks(principal, item) == [first + HOUR]


async def test_it_tells_what_became_of_the_run_that_it_started_last(
    clock: Clockwork, principal: Principal
) -> None:
    item = await clock.schedules.save(principal, "hourly", timing=HOURLY, work=WORK)
    assert item["last_run"] is None
    await clock.schedules.fire_due(next_of(item))
    (run,) = await clock.runs(principal)
    queued = (await clock.schedules.get(principal, "hourly"))["last_run"]
    assert queued == {"run": run.id, "status": "queued", "ended_at": None}
    await clock.end_runs(principal)
    (listed,) = await clock.schedules.list(principal)
    assert listed["last_run"] is not None
    assert listed["last_run"]["status"] == "cancelled"
    assert (listed["last_run"]["ended_at"] or "").endswith("Z")
