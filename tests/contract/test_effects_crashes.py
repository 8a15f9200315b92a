"""Calls that break off at their commit, at random and many at once: each key's effect is there exactly once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mcp_server.auth.principal import Principal
from mcp_server.errors import LeaseLost, Unavailable
from mcp_server.operation import Operations
from mcp_server.placement import Placements
from mcp_server.runs.fence import StepKey
from mcp_server.services.objects.collector import collect_garbage, sweep_orphans
from mcp_server.storage.sql import EffectKey, Page
from mcp_server.storage.sql.control import open_control
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.postgresql import PostgresqlEngine, open_postgresql
from mcp_server.storage.sql.wire import ConnectionLost, Session
from tests.conftest import SECRET, make_tenant
from tests.contract.effect_world import CALLS, World, begin_run, open_world, take_over

Moment = Literal["never", "before", "after"]
"""When a connection dies: before its commit reaches the server, or after it was done there."""

_KILL = text("select pg_terminate_backend(:pid)")
_PID = text("select pg_backend_pid()")


class Dying:
    """A control database whose connections die at their commit, as `moment` says for each."""

    def __init__(self, engine: AsyncEngine, killer: AsyncEngine) -> None:
        self._engine = engine
        self._killer = killer
        self.moment: Callable[[], Moment] = lambda: "never"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncConnection]:
        moment = self.moment()
        async with self._engine.begin() as tx:
            yield tx
            if moment == "before":
                pid = await tx.scalar(_PID)
                async with self._killer.connect() as connection:
                    await connection.execute(_KILL, {"pid": pid})
        if moment == "after":
            raise ConnectionResetError("the answer to the commit was lost")


class DyingSessions:
    """The tenants' connections, which die likewise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, killer: AsyncEngine) -> None:
        self.moment: Callable[[], Moment] = lambda: "never"
        original = Session.command

        async def command(session: Session, sql: str) -> None:
            moment = self.moment() if sql == "commit" else "never"
            if moment == "before":
                pid = session._connection.get_server_pid()
                async with killer.connect() as connection:
                    await connection.execute(_KILL, {"pid": pid})
            await original(session, sql)
            if moment == "after":
                raise ConnectionLost("the answer to the commit was lost")

        monkeypatch.setattr(Session, "command", command)


@pytest.fixture
async def killer(cluster: Cluster) -> AsyncIterator[AsyncEngine]:
    url = cluster.control_url.replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    yield engine
    await engine.dispose()


@pytest.fixture
async def dying(cluster: Cluster, killer: AsyncEngine) -> AsyncIterator[Dying]:
    async with open_control(cluster.control_url) as engine:
        yield Dying(engine, killer)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch, killer: AsyncEngine) -> DyingSessions:
    return DyingSessions(monkeypatch, killer)


@pytest.fixture(scope="module")
async def engine(cluster: Cluster) -> AsyncIterator[PostgresqlEngine]:
    async with open_postgresql(cluster.data_url, SECRET, connections=8) as engine:
        yield engine


@pytest.fixture
async def world(
    dying: Dying,
    operations: Operations,
    engine: PostgresqlEngine,
    principal: Principal,
    tmp_path: Path,
) -> AsyncIterator[World]:
    """Every service over a control database that may die."""
    control = cast("AsyncEngine", dying)
    async with open_world(control, operations, engine, tmp_path / "objects") as world:
        await world.prepare(principal)
        yield world


def once(moment: Moment, *, skip: int = 0) -> Callable[[], Moment]:
    """Return a moment for one commit, the first after some that go well."""
    left = iter([*["never"] * skip, moment])
    return lambda: cast("Moment", next(left, "never"))


_TWO_COMMITS = {"vector_add", "write_together"}


def commits(tool: str) -> list[tuple[str, int]]:
    """Return the places at which a call of a tool commits: (database, how many commits before it)."""
    if tool == "sql_execute":
        return [("control", 0), ("data", 0), ("control", 1)]
    return [("control", 0), *([("control", 1)] if tool in _TWO_COMMITS else [])]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("case", CALLS)
async def test_a_call_that_breaks_off_at_a_commit_is_made_good_by_the_next(
    world: World,
    dying: Dying,
    sessions: DyingSessions,
    control: AsyncEngine,
    case: str,
    moment: Moment,
) -> None:
    tool, arguments, entries = CALLS[case]
    for place, skip in commits(tool):
        who = await make_tenant(control)
        await world.prepare(who)
        step = await begin_run(control, who.tenant)
        broken = dying if place == "control" else sessions
        broken.moment = once(moment, skip=skip)
        if tool == "sql_execute" and (place, skip) == ("control", 1):
            # The statement is done, so its outcome is journalled with more patience.
            first = await world.call(who, tool, str(step), **arguments)
        else:
            with pytest.raises(Unavailable):
                await world.call(who, tool, str(step), **arguments)
            first = await world.call(who, tool, str(step), **arguments)
        after = await world.state(who)
        taken = await take_over(control, step)
        assert await world.call(who, tool, str(taken), **arguments) == first
        assert await world.state(who) == after
        assert len(await world.journal(who, step.key)) == entries


async def test_a_mark_that_is_rolled_back_is_no_mark(
    world: World, principal: Principal, control: AsyncEngine, dying: Dying
) -> None:
    step = await begin_run(control, principal.tenant)
    before = await world.state(principal)
    dying.moment = once("before")
    with pytest.raises(Unavailable):
        await world.call(principal, "kv_set", str(step), key="k", value=1)
    assert await world.state(principal) == before
    async with control.connect() as connection:
        query = text("select count(*) from effects where key = :key")
        assert await connection.scalar(query, {"key": step.key}) == 0


async def test_a_worker_that_stood_still_in_its_statement_commits_nothing_after_the_fence(
    world: World,
    principal: Principal,
    control: AsyncEngine,
    engine: PostgresqlEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its statement has run, and is about to be committed, when another worker takes the run."""
    step = await begin_run(control, principal.tenant)
    standing, go_on = asyncio.Event(), asyncio.Event()
    original = Session.execute

    async def execute(session: Session, arguments: Any) -> int:
        count = await original(session, arguments)
        if not standing.is_set():
            standing.set()
            await go_on.wait()
        return count

    monkeypatch.setattr(Session, "execute", execute)
    insert = {"sql": "insert into t values ($1)"}
    zombie = asyncio.create_task(
        world.call(principal, "sql_execute", str(step), **insert, params=[77])
    )
    await standing.wait()
    taken = await take_over(control, step)
    async with asyncio.timeout(5):  # it waits for no statement
        await world.services.sql.raise_fence(taken.run, taken.attempt)
    retaken = asyncio.create_task(
        world.call(principal, "sql_execute", str(taken), **insert, params=[78])
    )
    go_on.set()
    with pytest.raises(LeaseLost):
        await zombie
    assert (await retaken)["row_count"] == 1
    rows = (await world.services.sql.query(principal, "select a from t where a > 9"))["rows"]
    assert rows == [[78]]
    verbs = [verb for verb, _ in await world.journal(principal, step.key)]
    assert verbs == ["intent", "write"]


async def test_a_fence_holds_before_the_new_worker_has_used_sql(
    engine: PostgresqlEngine, world: World, principal: Principal, control: AsyncEngine
) -> None:
    """The control database does not refuse it: as if the check had been passed just before."""
    place = Placements(engine.url)(principal.tenant)
    step = await begin_run(control, principal.tenant)
    checked = await engine.check(place.schema, "insert into t values (5)", writable=True)
    page = Page(10, 1000)
    await engine.fence(step.run, step.attempt + 1)
    stale = EffectKey(step.key, step.run, step.attempt)
    with pytest.raises(LeaseLost):
        await engine.run(place.schema, checked, [], page, stale)
    with pytest.raises(LeaseLost):
        await engine.fence(step.run, step.attempt)
    await engine.fence(step.run, step.attempt + 1)
    for _ in range(2):
        key = EffectKey(step.key, step.run, step.attempt + 1)
        assert (await engine.run(place.schema, checked, [], page, key)).row_count == 1
    assert (await world.services.sql.query(principal, "select a from t where a = 5"))["rows"] == [
        [5]
    ]


async def test_random_deaths_double_nothing_and_lose_nothing(
    world: World,
    dying: Dying,
    sessions: DyingSessions,
    control: AsyncEngine,
    principal: Principal,
    stranger: Principal,
    killer: AsyncEngine,
) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    await world.prepare(stranger)
    await world.services.sql.execute(principal, "create table hits (step text)")
    await world.services.sql.execute(stranger, "create table hits (step text)")
    jobs = [Job(dice, who, number) for who in (principal, stranger) for number in range(16)]
    for job in jobs:
        run = await begin_run(control, job.who.tenant)
        job.step = StepKey(run.run, f"{run.run}/call/{job.number}", run.epoch, run.attempt)
    deaths: list[Moment] = ["never", "never", "never", "before", "after"]
    dying.moment = sessions.moment = lambda: dice.choice(deaths)
    workers = [worker(world, control, job, dice) for job in jobs for _ in range(3)]
    dice.shuffle(workers)
    done = asyncio.Event()
    reaper = asyncio.create_task(kill_sessions(killer, dice, done))
    async with asyncio.timeout(120):
        await asyncio.gather(*workers)
    done.set()
    await reaper
    dying.moment = sessions.moment = lambda: "never"
    for who in (principal, stranger):
        await verify(world, control, who, [job for job in jobs if job.who is who])
    await sweep_and_count(world, control, (principal, stranger))


class Job:
    """One step with one effect, which several workers try at once until one of them has its answer."""

    step: StepKey

    def __init__(self, dice: random.Random, who: Principal, number: int) -> None:
        self.who = who
        self.number = number
        self.kind = dice.choice(["kv", "object", "vector", "sql"])
        self.answers: list[Any] = []

    def call(self) -> tuple[str, dict[str, Any]]:
        name = f"job-{self.number}"
        return {
            "kv": ("kv_set", {"key": name, "value": name}),
            "object": ("object_put", {"key": name, "text": name}),
            "vector": ("vector_add", {"store": "s", "text": name, "document": name}),
            "sql": ("sql_execute", {"sql": "insert into hits values ($1)", "params": [name]}),
        }[self.kind]


async def worker(world: World, control: AsyncEngine, job: Job, dice: random.Random) -> None:
    """Try until there is an answer; now and then another worker takes the run over in between."""
    tool, arguments = job.call()
    while True:
        try:
            if dice.random() < 0.2:
                job.step = await take_over(control, job.step)
                await world.services.sql.raise_fence(job.step.run, job.step.attempt)
            step = job.step
            job.answers.append(await world.call(job.who, tool, str(step), **arguments))
            return
        except (LeaseLost, Unavailable):
            await asyncio.sleep(dice.random() * 0.02)


async def kill_sessions(killer: AsyncEngine, dice: random.Random, done: asyncio.Event) -> None:
    """End tenants' sessions wherever they are."""
    query = text(
        "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity"
        " where starts_with(usename, 'isth_') order by random() limit 2) picked"
    )
    while not done.is_set():
        async with killer.connect() as connection:
            await connection.execute(query)
        await asyncio.sleep(dice.random() * 0.1)


async def verify(world: World, control: AsyncEngine, who: Principal, jobs: list[Job]) -> None:
    hits = (await world.services.sql.query(who, "select step from hits order by 1"))["rows"]
    assert [row[0] for row in hits] == sorted(
        f"job-{job.number}" for job in jobs if job.kind == "sql"
    )
    for job in jobs:
        assert len(job.answers) == 3
        assert all(answer == job.answers[0] for answer in job.answers), job.kind
        entries = Counter(verb for verb, _ in await world.journal(who, job.step.key))
        expected = {"intent": 1, "write": 1} if job.kind == "sql" else {"write": 1}
        assert entries == expected, (job.kind, entries)
    listed = (await world.services.kv.list(who, "default", prefix="job-"))["items"]
    versions = {item["key"]: item["version"] for item in listed}
    assert versions == {
        f"job-{job.number}": job.answers[0]["version"] for job in jobs if job.kind == "kv"
    }


async def sweep_and_count(
    world: World, control: AsyncEngine, tenants: tuple[Principal, ...]
) -> None:
    """Blobs whose commit died are collected, and those of objects are all there."""
    await sweep_orphans(control, world.blobs, timedelta(0))
    await collect_garbage(control, world.blobs, timedelta(0))
    named = 0
    for who in tenants:
        for item in (await world.services.objects.list(who, "default"))["items"]:
            got = await world.services.objects.get(who, "default", item["key"])
            assert got["text"] in {item["key"], "old"}
            named += 1
    assert len([blob async for blob in world.blobs.list()]) == named
