"""One tenant that saturates SQL leaves connections and CPU to the others."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql import priority
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.postgresql import open_postgresql
from tests.conftest import SECRET, make_tenant
from tests.contract.sql.conftest import open_admin

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has no such priorities")

LONG = os.environ.get("TEST_LENGTH") == "long"
PROBES = 1000 if LONG else 20
CONNECTIONS = 8
BUSY = "select count(*) from generate_series(1, 3000) a, generate_series(1, 3000) b where (a * b) % 7 = 3"
ENDLESS = "select count(*) from generate_series(1, 1000000) a, generate_series(1, 1000000) b"
_BACKENDS = text(
    "select pid, state from pg_stat_activity where starts_with(usename, 'isth_') order by pid"
)


@pytest.fixture
async def shared(
    cluster: Cluster, operations: Operations, control: AsyncEngine
) -> AsyncIterator[SqlService]:
    """The service over the database that runs beside it, as the embedded one does."""
    async with open_postgresql(
        cluster.data_url, SECRET, connections=CONNECTIONS, beside_us=True
    ) as engine:
        yield SqlService(operations, control, engine)


@pytest.fixture
async def watcher(cluster: Cluster) -> AsyncIterator[AsyncEngine]:
    engine = open_admin(cluster.data_url)
    yield engine
    await engine.dispose()


async def priorities(watcher: AsyncEngine, before: set[int]) -> dict[int, int]:
    """The priority of each backend that was not there before, by its process."""
    async with watcher.connect() as connection:
        rows = (await connection.execute(_BACKENDS)).all()
    return {
        row.pid: os.getpriority(os.PRIO_PROCESS, row.pid) for row in rows if row.pid not in before
    }


async def test_a_long_statement_gives_way_and_a_short_one_does_not(
    shared: SqlService, principal: Principal, stranger: Principal, watcher: AsyncEngine
) -> None:
    before = set(await priorities(watcher, set()))
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    slow = [asyncio.create_task(shared.query(principal, ENDLESS)) for _ in range(CONNECTIONS)]
    async with asyncio.timeout(30):
        while True:
            # Half of the connections are one tenant's at most, and all of these give way.
            found = list((await priorities(watcher, before)).values())
            if found == [priority.LOWERED] * (CONNECTIONS // 2):
                break
            await asyncio.sleep(0.02)
        assert (await shared.query(stranger, "select 1"))["rows"] == [[1]]
    found = list((await priorities(watcher, before)).values())
    assert sorted(found) == sorted([priority.LOWERED] * (CONNECTIONS // 2) + [mine])
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_no_later_statement_inherits_the_lower_priority(
    shared: SqlService, principal: Principal, watcher: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(await priorities(watcher, set()))
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    await shared.query(principal, BUSY)
    assert (await shared.query(principal, "select 1"))["rows"] == [[1]]
    kept = await priorities(watcher, before)
    assert set(kept.values()) == {mine}
    # Without the right to put it back, the connection is given up instead.
    monkeypatch.setattr(priority.Lowered, "restore", lambda self: setattr(self, "kept", True))
    await shared.query(principal, BUSY)
    monkeypatch.undo()
    assert (await shared.query(principal, "select 1"))["rows"] == [[1]]
    async with asyncio.timeout(10):
        while set(kept) & set(left := await priorities(watcher, before)):
            await asyncio.sleep(0.02)
    assert set(left.values()) == {mine}


async def test_another_is_answered_all_the_while(
    shared: SqlService, control: AsyncEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The long form measures, on a machine with nothing else to do: p99 within twice its quiet value."""
    noisy, quiet = await make_tenant(control), await make_tenant(control)
    await shared.execute(quiet, "create table t (a int primary key, b text)")
    await shared.execute(quiet, "insert into t select g, 'x' from generate_series(1, 1000) g")

    async def p99() -> float:
        times: list[float] = []
        for at in range(PROBES):
            begun = time.perf_counter()
            await shared.query(quiet, "select * from t where a = $1", [at])
            times.append(time.perf_counter() - begun)
            await asyncio.sleep(0.005)
        return sorted(times)[PROBES * 99 // 100 - 1]

    async def saturate() -> None:
        while True:
            await shared.query(noisy, BUSY)

    before = await p99()
    tasks = [asyncio.create_task(saturate()) for _ in range(2 * CONNECTIONS)]
    await asyncio.sleep(1)  # until all of them run
    during = await p99()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    after = await p99()
    if not LONG:
        return
    with capsys.disabled():
        shown = ", ".join(f"{value * 1000:.1f}" for value in (before, during, after))
        print(f"\np99 in ms quiet, beside a noisy tenant, quiet again: {shown}")
    assert during <= 2 * max(before, after)
