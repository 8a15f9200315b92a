"""Connections that die at a commit of a unit of work: the caller hears the truth, and a key finds what was done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, LeaseLost, Unavailable
from mcp_server.operation import Operations
from mcp_server.services.units import intent
from mcp_server.storage.sql.control import open_control
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.postgresql import PostgresqlEngine
from mcp_server.storage.sql.tenant_unit import TenantUnit
from tests.contract.effect_world import begin_run, take_over
from tests.contract.test_effects_crashes import Dying, DyingSessions, once
from tests.contract.units.test_units import everything, state
from tests.contract.units.world import World, open_world

WHOLE, NOTHING = [True] * 4, [False] * 4


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


@pytest.fixture
async def world(
    dying: Dying,
    operations: Operations,
    engine: PostgresqlEngine,
    principal: Principal,
    tmp_path: Path,
) -> AsyncIterator[World]:
    """All of it over a control database whose connections may die."""
    control = cast("AsyncEngine", dying)
    async with open_world(control, operations, engine, tmp_path / "blobs") as world:
        await world.sql.execute(principal, "create table t (a int unique)")
        # So that the unit makes no other transactions than its own.
        await world.stores.vectors.add(principal, "s", "old words", document="old")
        yield world


async def written(world: World, who: Principal, key: str | None = None) -> Any:
    return await world.units.write_together(who, **everything(1), idempotency_key=key)


# Which commit, when, and what is there after the call. Transactions of the control database begin in
# the order: of the document's preparation, of the rest of the unit, of the intent.
CASES: dict[str, tuple[str, int, bool]] = {
    "the rest, before": ("before", 1, True),
    "the rest, after": ("after", 1, True),
    "the intent, before": ("before", 2, False),
    "the intent, after": ("after", 2, False),
}


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("case", CASES)
async def test_a_control_connection_that_dies(
    world: World, dying: Dying, principal: Principal, case: str, key: str | None
) -> None:
    moment, skip, whole = CASES[case]
    begun = await begins(world, dying, principal, key and "other")
    dying.moment = once(cast("Any", moment), skip=begun - 3 + skip)
    if whole:
        first = await written(world, principal, key)
        assert await state(world, principal, 1) == WHOLE
        if key is not None:
            assert await written(world, principal, key) == first
    else:
        with pytest.raises(Unavailable, match="try again"):
            await written(world, principal, key)
        assert await state(world, principal, 1) == NOTHING
        await written(world, principal, key)
        assert await state(world, principal, 1) == WHOLE
    await check_once(world, principal)


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_tenants_connection_that_dies_at_its_commit(
    world: World, sessions: DyingSessions, principal: Principal, moment: str, key: str | None
) -> None:
    sessions.moment = once(cast("Any", moment))
    if moment == "after":
        first = await written(world, principal, key)
        if key is not None:
            assert await written(world, principal, key) == first
    else:
        with pytest.raises(Unavailable, match="nothing of this was done"):
            await written(world, principal, key)
        assert await state(world, principal, 1) == NOTHING
        await written(world, principal, key)
    assert await state(world, principal, 1) == WHOLE
    await check_once(world, principal)


async def test_the_answer_of_a_finished_unit_is_what_is_there(
    world: World, sessions: DyingSessions, principal: Principal
) -> None:
    sessions.moment = once("after")
    done = await written(world, principal)
    kept = await world.stores.kv.get(principal, "default", "k1")
    assert done["keys"][0]["version"] == kept["version"]
    assert done["rows"][0]["rows"] == [[1]]
    assert done["documents"] == [{"store": "s", "document": "d1", "chunks": 1}]


async def test_a_step_that_is_taken_over_finds_the_unit_that_its_first_worker_left(
    world: World,
    dying: Dying,
    principal: Principal,
    control: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows are committed, the worker is gone, and nobody has settled it yet."""
    step = await begin_run(control, principal.tenant)
    begun = await begins(world, dying, principal, "other")
    dying.moment = once("before", skip=begun - 2)

    async def gone(_: str) -> Any:
        raise Unavailable("this process is dead")

    with monkeypatch.context() as dead:
        dead.setattr("mcp_server.services.units.commit.PATIENCE_SECONDS", 0.1)
        dead.setattr(world.recovery, "settle", gone)
        with pytest.raises(Unavailable, match="finished or dropped in the background"):
            await written(world, principal, str(step))
    assert await state(world, principal, 1) == [True, False, False, False]
    taken = await take_over(control, step)
    with pytest.raises(LeaseLost):
        await written(world, principal, str(step))
    done = await written(world, principal, str(taken))
    assert await state(world, principal, 1) == WHOLE
    assert await written(world, principal, str(taken)) == done
    await check_once(world, principal)
    query = text("select uri from journal where tenant = :t and step = :s and run = :r")
    at = {"t": principal.tenant, "s": step.key, "r": step.run}
    async with world.control.connect() as connection:
        assert len((await connection.execute(query, at)).all()) == 4


async def test_what_is_held_lets_nobody_come_between(
    world: World, dying: Dying, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two units, and single writers, on a key whose unit is left behind: none overtakes it."""
    begun = await begins(world, dying, principal)
    dying.moment = once("before", skip=begun - 2)
    with monkeypatch.context() as dead:
        dead.setattr("mcp_server.services.units.commit.PATIENCE_SECONDS", 0.0)
        with pytest.raises(Unavailable):
            await written(world, principal)
    keys: Any = [{"key": "k1", "value": "other"}]
    for write in (
        world.units.write_together(principal, keys=keys),
        world.units.write_together(
            principal, keys=keys, rows=[{"sql": "insert into t values (9)"}]
        ),
        world.stores.kv.set(principal, "default", "k1", "other", expected_version=0),
    ):
        with pytest.raises(AppError, match="is being finished; try again"):
            await write
    monkeypatch.setattr(intent, "STALE_SECONDS", 0.0)
    assert await world.recovery.sweep() == 1
    assert await state(world, principal, 1) == WHOLE
    assert await world.rows(principal) == [[1]]
    await world.units.write_together(principal, keys=keys)
    assert await world.value(principal, "k1") == "other"


@pytest.mark.parametrize(("where", "whole"), [("run", False), ("ready", False), ("commit", True)])
async def test_a_caller_that_goes_away_leaves_all_or_nothing(
    world: World, principal: Principal, monkeypatch: pytest.MonkeyPatch, where: str, whole: bool
) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    original = getattr(TenantUnit, where)

    async def held(*arguments: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await original(*arguments)

    monkeypatch.setattr(TenantUnit, where, held)
    call = asyncio.create_task(written(world, principal))
    await reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    go_on.set()
    wanted = WHOLE if whole else NOTHING
    async with asyncio.timeout(30):
        while await state(world, principal, 1) != wanted or await world.pending():
            await asyncio.sleep(0.01)
    if not whole:  # and nothing is locked any more
        await written(world, principal)
    await check_once(world, principal)


async def begins(world: World, dying: Dying, who: Principal, key: str | None = None) -> int:
    """Return how many transactions of the control database a unit with everything begins."""
    count = 0

    def counting() -> Any:
        nonlocal count
        count += 1
        return "never"

    dying.moment = counting
    await world.units.write_together(who, **everything(1000), idempotency_key=key)
    dying.moment = lambda: "never"
    await world.sql.execute(who, "delete from t")
    return count


async def check_once(world: World, who: Principal) -> None:
    assert await world.pending() == 0
    assert await world.rows(who) == [[1]]
    query = text(
        "select uri, count(*) as made from journal where tenant = :t and verb = 'write'"
        " and uri in ('kv://default/k1', 'object://default/o1.txt', 'vector://s/d1') group by uri"
    )
    async with world.control.connect() as connection:
        rows = (await connection.execute(query, {"t": who.tenant})).all()
    assert sorted(row.made for row in rows) == [1, 1, 1]
