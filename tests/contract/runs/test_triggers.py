"""Triggers: each follows the journal by itself, counts what its owner may read, and fires once for it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.keys import KeyService
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.runs.record import Run, new_run_id
from mcp_server.services.standing_keeper import keeping_standing
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.run_tables import triggers
from mcp_server.storage.sql.schema import api_keys
from mcp_server.storage.sql.wake import open_wake
from tests.contract.runs.clockwork import Clockwork, open_clockwork

JOBS = {"uri": "kv://default/jobs/*", "verbs": ["write"]}
WORK = {"agent": "helper"}


@pytest.fixture
async def clock(
    operations: Operations, control: AsyncEngine, principal: Principal
) -> AsyncIterator[Clockwork]:
    async with open_clockwork(operations, control) as clock:
        await clock.helper(principal)
        yield clock


async def job(clock: Clockwork, principal: Principal, *names: str) -> None:
    for name in names:
        await clock.kv.set(principal, "default", f"jobs/{name}", 1)


def told(run: Any) -> dict[str, Any]:
    """Return what the agent is told of the changes."""
    return json.loads(run.input["messages"][-1]["content"])


async def write_as(control: AsyncEngine, principal: Principal, run: str, uri: str) -> None:
    """Journal a change as a step of a run makes it."""
    async with control.begin() as tx:
        entry = {"version": 1, "prev_version": None, "step": f"{run}/call/1", "labels": list[str]()}
        await journal.append(
            tx, tenant=principal.tenant, subject="x", verb="write", uri=uri, run=run, **entry
        )


async def start_run(clock: Clockwork, principal: Principal, origin: str | None) -> str:
    run = Run(
        id=new_run_id(),
        tenant=principal.tenant,
        subject="x",
        key_id=None,
        grant=principal.scopes,
        kind="agent",
        input={},
        origin=origin,
    )
    created, _ = await clock.queue.create(run)
    return created.id


async def test_a_change_that_fits_starts_the_agent_with_what_changed(
    clock: Clockwork, principal: Principal, stranger: Principal
) -> None:
    await job(clock, principal, "before")
    item = await clock.triggers.save(
        principal, "t", condition=JOBS, work={"agent": "helper", "input": "look"}
    )
    assert await clock.triggers.fire() == 0
    await clock.kv.set(principal, "default", "other", 1)
    await clock.kv.set(stranger, "default", "jobs/1", 1)
    await job(clock, principal, "1", "2")
    await clock.kv.delete(principal, "default", "jobs/2")
    assert await clock.triggers.fire() == 1
    assert await clock.triggers.fire() == 0
    (run,) = await clock.runs(principal)
    assert run.origin == f"trigger/{item['id']}"
    assert run.input["messages"][0] == {"role": "user", "content": "look"}
    seen = told(run)
    assert (seen["trigger"], seen["count"]) == ("t", 2)
    assert [(change["verb"], change["uri"]) for change in seen["changes"]] == [
        ("write", "kv://default/jobs/1"),
        ("write", "kv://default/jobs/2"),
    ]
    assert seen["changes"][0]["subject"] == "tester"
    entries, _ = await journal.read(clock.control, principal.tenant, seen["after"], 100)
    assert seen["changes"][0]["uri"] in {entry["uri"] for entry in entries}


async def test_a_tool_gets_the_changes_in_the_argument_that_is_named(
    clock: Clockwork, principal: Principal
) -> None:
    work = {"tool": "import", "arguments": {"source": "a"}, "changes_as": "changes"}
    await clock.triggers.save(principal, "t", condition={"uri": "kv://default/jobs/1"}, work=work)
    await job(clock, principal, "10", "1")
    assert await clock.triggers.fire() == 1
    (run,) = await clock.runs(principal)
    given = run.input["arguments"]
    assert (given["source"], given["changes"]["count"]) == ("a", 1)


async def test_a_hundred_changes_are_listed_and_all_are_counted(
    clock: Clockwork, principal: Principal
) -> None:
    await clock.triggers.save(principal, "t", condition=JOBS, work=WORK)
    await job(clock, principal, *(str(number) for number in range(130)))
    assert await clock.triggers.fire() == 1
    seen = told((await clock.runs(principal))[0])
    assert (seen["count"], len(seen["changes"])) == (130, 100)
    assert seen["changes"][0]["uri"].endswith("jobs/0")


async def test_a_debounced_trigger_fires_after_so_much_quiet(
    clock: Clockwork, principal: Principal
) -> None:
    await clock.triggers.save(principal, "t", condition=JOBS, work=WORK, debounce_seconds=10)
    begun = datetime.now(UTC)
    for seconds in (0, 8, 16):
        await job(clock, principal, str(seconds))
        assert await clock.triggers.fire(begun + timedelta(seconds=seconds)) == 0
    waiting = await clock.triggers.get(principal, "t")
    assert waiting["gathered"] == 3
    assert await clock.triggers.fire(begun + timedelta(seconds=25.9)) == 0
    assert await clock.triggers.fire(begun + timedelta(seconds=26)) == 1
    assert told((await clock.runs(principal))[0])["count"] == 3
    assert (await clock.triggers.get(principal, "t"))["gathered"] == 0


async def test_without_quiet_it_fires_after_ten_debounces(
    clock: Clockwork, principal: Principal
) -> None:
    await clock.triggers.save(principal, "t", condition=JOBS, work=WORK, debounce_seconds=10)
    begun, fired = datetime.now(UTC), list[int]()
    for seconds in range(0, 125, 5):
        await job(clock, principal, str(seconds))
        if await clock.triggers.fire(begun + timedelta(seconds=seconds)):
            fired.append(seconds)
    assert fired == [100]


async def test_what_its_own_runs_change_does_not_start_it_again(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    everything = {"uri": "kv://default/*"}
    item = await clock.triggers.save(principal, "t", condition=everything, work=WORK)
    other = await clock.triggers.save(principal, "u", condition=everything, work=WORK)
    await job(clock, principal, "1")
    assert await clock.triggers.fire() == 2
    (own,) = await clock.runs(principal, f"trigger/{item['id']}")
    child = await start_run(clock, principal, f"run://{own.id}")
    grandchild = await start_run(clock, principal, f"run://{child}")
    for run in (own.id, child, grandchild):
        await write_as(control, principal, run, "kv://default/jobs/2")
    await clock.triggers.fire()
    assert len(await clock.runs(principal, f"trigger/{item['id']}")) == 1
    assert len(await clock.runs(principal, f"trigger/{other['id']}")) == 2  # to it they are news
    foreign = await start_run(clock, principal, None)
    await write_as(control, principal, foreign, "kv://default/jobs/3")
    await clock.triggers.fire()
    assert len(await clock.runs(principal, f"trigger/{item['id']}")) == 2


async def test_a_trigger_on_runs_does_not_see_its_own(
    clock: Clockwork, principal: Principal
) -> None:
    await clock.triggers.save(principal, "t", condition={"uri": "run://*"}, work=WORK)
    await start_run(clock, principal, None)
    assert await clock.triggers.fire() == 1
    for _ in range(3):
        assert await clock.triggers.fire() == 0


async def test_only_what_the_owner_may_read_now_counts(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    keys = KeyService(control)
    new = await keys.create("clerk", tenant=principal.tenant)
    clerk = await keys.authenticate(new["key"])
    await clock.triggers.save(clerk, "t", condition={"uri": "kv://*"}, work=WORK)
    async with control.begin() as tx:
        scopes = ["run", "read:kv://default/jobs/open/*"]
        await tx.execute(
            update(api_keys).where(api_keys.c.id == clerk.key_id).values(scopes=scopes)
        )
    await job(clock, principal, "secret", "open/1")
    assert await clock.triggers.fire() == 1
    (run,) = await clock.runs(principal)
    seen = told(run)
    assert [change["uri"] for change in seen["changes"]] == ["kv://default/jobs/open/1"]
    assert "secret" not in json.dumps(run.input)
    assert "write" not in run.grant_scopes


async def test_a_change_in_a_bucket_of_the_operators_counts_for_whom_it_is_named_to(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    named = replace(principal, scopes=principal.scopes | {"read:object://shelf/*"})
    for name, owner in (("plain", principal), ("named", named)):
        await clock.triggers.save(owner, name, condition={"uri": "object://*"}, work=WORK)
    async with control.begin() as tx:
        entry = {"version": None, "prev_version": None, "run": None, "step": None}
        await journal.append(
            tx,
            tenant=principal.tenant,
            subject="x",
            verb="write",
            uri="object://shelf/secret",
            labels=["bucket:0", "egress"],
            **entry,
        )
    assert await clock.triggers.fire() == 1
    (run,) = await clock.runs(principal)
    assert [change["uri"] for change in told(run)["changes"]] == ["object://shelf/secret"]
    assert "read:object://shelf/*" in run.grant_scopes


async def test_a_change_that_commits_late_is_not_skipped(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    item = await clock.triggers.save(principal, "t", condition=JOBS, work=WORK)
    async with control.connect() as slow:
        await slow.begin()
        entry = {"version": 1, "prev_version": None, "run": None, "step": None, "labels": []}
        uri = "kv://default/jobs/slow"
        await journal.append(
            slow, tenant=principal.tenant, subject="x", verb="write", uri=uri, **entry
        )
        await job(clock, principal, "fast")
        assert await clock.triggers.fire() == 0
        await slow.commit()
    await clock.triggers.fire()
    seen = [
        change["uri"].rpartition("/")[2]
        for run in await clock.runs(principal, f"trigger/{item['id']}")
        for change in told(run)["changes"]
    ]
    assert seen == ["slow", "fast"]


async def test_each_change_counts_once_with_three_processes_that_die_in_the_middle(
    operations: Operations, control: AsyncEngine, clock: Clockwork, principal: Principal
) -> None:
    dice = random.Random(7)
    item = await clock.triggers.save(principal, "t", condition=JOBS, work=WORK)
    processes = [Clockwork(operations, control) for _ in range(3)]
    deaths, writing = 0, True

    def die() -> None:
        if dice.random() < 0.3:
            raise ConnectionAbortedError

    async def follow(process: Clockwork) -> None:
        nonlocal deaths
        process.queue.broken = die
        while writing or await process.triggers.fire():
            try:
                await process.triggers.fire()
            except ConnectionAbortedError:
                deaths += 1

    followers = [asyncio.create_task(follow(process)) for process in processes]
    await asyncio.gather(
        *(job(clock, principal, *(f"{lane}-{n}" for n in range(60))) for lane in range(4))
    )
    writing = False
    for process in processes:
        process.queue.broken = lambda: None
    await asyncio.gather(*followers)
    while await clock.triggers.fire():
        pass
    found = await clock.runs(principal, f"trigger/{item['id']}")
    seen = [change["uri"] for run in found for change in told(run)["changes"]]
    print(
        f"240 changes in {len(found)} runs of 3 processes, {deaths} deaths in the middle of a fire"
    )
    assert len(seen) == len(set(seen)) == 240
    assert sum(told(run)["count"] for run in found) == 240
    assert deaths > 0


async def test_with_too_many_live_runs_changes_are_gathered_until_some_have_ended(
    clock: Clockwork, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server.runs.triggers.MOST_LIVE", 1)
    await clock.triggers.save(principal, "t", condition=JOBS, work=WORK)
    for name in ("1", "2", "3"):
        await job(clock, principal, name)
        await clock.triggers.fire()
    assert (await clock.triggers.get(principal, "t"))["gathered"] == 2
    await clock.end_runs(principal)
    assert await clock.triggers.fire() == 1
    assert [told(run)["count"] for run in await clock.runs(principal)] == [1, 2]


async def test_a_paused_trigger_sees_only_what_comes_after_its_resumption(
    clock: Clockwork, principal: Principal
) -> None:
    await clock.triggers.save(principal, "t", condition=JOBS, work=WORK)
    await clock.triggers.pause(principal, "t")
    await job(clock, principal, "1")
    assert await clock.triggers.fire() == 0
    await clock.triggers.resume(principal, "t")
    assert await clock.triggers.fire() == 0
    await job(clock, principal, "2")
    assert await clock.triggers.fire() == 1
    assert told((await clock.runs(principal))[0])["count"] == 1


async def test_saving_again_forgets_no_change_unless_the_condition_is_another(
    clock: Clockwork, principal: Principal
) -> None:
    await clock.triggers.save(principal, "t", condition=JOBS, work=WORK)
    await job(clock, principal, "1")
    await clock.triggers.save(principal, "t", condition=JOBS, work={**WORK, "input": "x"})
    assert await clock.triggers.fire() == 1
    await job(clock, principal, "2")
    await clock.triggers.save(principal, "t", condition={"uri": "kv://default/*"}, work=WORK)
    assert await clock.triggers.fire() == 0
    assert await clock.triggers.delete(principal, "t")
    with pytest.raises(NotFound, match="trigger 't' does not exist"):
        await clock.triggers.get(principal, "t")


async def test_a_revoked_key_stops_its_triggers_within_a_second_and_wake_ups_are_heard(
    clock: Clockwork, principal: Principal, control: AsyncEngine, cluster: Cluster
) -> None:
    keys = KeyService(control)
    clerk = await keys.authenticate((await keys.create("c", tenant=principal.tenant))["key"])
    await clock.triggers.save(clerk, "t", condition=JOBS, work=WORK)
    async with (
        open_wake(cluster.control_url) as wake,
        keeping_standing(clock.schedules, clock.triggers, wake),
    ):
        await job(clock, principal, "1")
        wake.send("journal")
        begun = time.monotonic()
        while not await clock.runs(principal):
            assert time.monotonic() - begun < 30
            await asyncio.sleep(0.01)
        print(f"fired {time.monotonic() - begun:.2f} s after the change")
        assert clerk.key_id is not None
        await keys.revoke(clerk.key_id)
        begun = time.monotonic()
        while (await clock.triggers.get(principal, "t"))["stopped"] is None:
            assert time.monotonic() - begun < 30
            await asyncio.sleep(0.02)
        print(f"stopped {time.monotonic() - begun:.2f} s after the revocation")
    await job(clock, principal, "2")
    assert await clock.triggers.fire() == 0
    assert len(await clock.runs(principal)) == 1
    with pytest.raises(Conflict, match="revoked or expired"):
        await clock.triggers.resume(principal, "t")


async def test_a_dead_key_fires_nothing_before_the_sweep_comes(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    keys = KeyService(control)
    clerk = await keys.authenticate((await keys.create("c", tenant=principal.tenant))["key"])
    await clock.triggers.save(clerk, "t", condition=JOBS, work=WORK, debounce_seconds=5)
    await job(clock, principal, "1")
    await clock.triggers.fire()
    assert clerk.key_id is not None
    await keys.revoke(clerk.key_id)
    assert await clock.triggers.fire(datetime.now(UTC) + timedelta(seconds=6)) == 0
    stopped = await clock.triggers.get(principal, "t")
    assert "revoked or expired" in (stopped["stopped"] or "")
    assert await clock.runs(principal) == []


async def test_a_trigger_that_cannot_be_read_stops_alone(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    bad = await clock.triggers.save(principal, "a", condition=JOBS, work=WORK)
    await clock.triggers.save(principal, "b", condition=JOBS, work=WORK)
    async with control.begin() as tx:
        await tx.execute(
            update(triggers).where(triggers.c.id == bad["id"]).values(condition={"uri": 5})
        )
    await job(clock, principal, "1")
    assert await clock.triggers.fire() == 1
    assert "condition.uri" in str((await clock.triggers.get(principal, "a"))["stopped"])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"condition": {}}, "condition.uri: "),
        ({"condition": {"uri": "jobs"}}, "condition.uri: .*give for example"),
        ({"condition": {"uri": "kv://a*b"}}, "condition.uri: "),
        ({"condition": {"uri": "kv://a", "verbs": ["DROP"]}}, "condition.verbs.0: "),
        ({"condition": {"uri": "kv://a", "filter": 1}}, "condition.filter: "),
        ({"debounce_seconds": -1}, "debounce_seconds: -1 is not within 0-86400"),
        ({"debounce_seconds": float("nan")}, "debounce_seconds: nan"),
        ({"work": {"agent": "nobody"}}, "work.agent: 'nobody' does not exist"),
        ({"work": {"tool": "import", "changes_as": "x"}}, "import has no such argument"),
    ],
)
async def test_what_does_not_fit_is_refused(
    clock: Clockwork, principal: Principal, given: dict[str, Any], problem: str
) -> None:
    fields: dict[str, Any] = {"name": "t", "condition": JOBS, "work": WORK, **given}
    with pytest.raises(InvalidInput, match=problem):
        await clock.triggers.save(principal, **fields)


async def test_saving_needs_the_right_to_start_the_work(
    clock: Clockwork, principal: Principal
) -> None:
    weak = Principal(principal.tenant, "weak", frozenset({"write", "read"}))
    with pytest.raises(Forbidden, match="may not run agent://helper"):
        await clock.triggers.save(weak, "t", condition=JOBS, work=WORK)


async def test_looking_costs_one_query_when_there_is_no_news(
    clock: Clockwork, principal: Principal, control: AsyncEngine
) -> None:
    async def cost() -> tuple[float, int]:
        """Return milliseconds a look, and how many rows of the journal were read for it."""
        reads = text(
            "select coalesce(sum(idx_tup_fetch), 0) from pg_stat_user_tables where relname like 'journal%'"
        )
        await settle(control)
        async with control.connect() as tx:
            before = int(await tx.scalar(reads) or 0)
        begun = time.perf_counter()
        for _ in range(50):
            assert await clock.triggers.fire() == 0
        took = (time.perf_counter() - begun) * 1000 / 50
        await settle(control)
        async with control.connect() as tx:
            return took, int(await tx.scalar(reads) or 0) - before

    none, _ = await cost()
    for number in range(100):
        await clock.triggers.save(principal, f"t{number}", condition=JOBS, work=WORK)
    await clock.triggers.fire()
    idle, rows = await cost()
    print(
        f"a look: {none:.2f} ms without triggers, {idle:.2f} ms with 100, {rows / 50:.1f} rows read"
    )
    assert rows <= 50 * 10


async def settle(control: AsyncEngine) -> None:
    async with control.connect() as tx:
        await tx.execute(text("select pg_stat_force_next_flush()"))
        await tx.commit()
        await tx.execute(text("select 1"))
