"""Time and connections: deadlines, cancels, lost connections, sharing, and what is left on the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Timeout, Unavailable
from mcp_server.operation import Operations
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.postgresql import open_postgresql
from tests.conftest import SECRET, make_tenant
from tests.contract.sql.conftest import open_admin

SLOW = "select count(*) from generate_series(1, 1000000) a, generate_series(1, 1000000) b"
# The tenants' roles; the owner of the session's own cluster is called isthmus.
_ACTIVE = text(
    "select count(*) from pg_stat_activity where starts_with(usename, 'isth_') and state = 'active'"
)
_OPEN = text("select count(*) from pg_stat_activity where starts_with(usename, 'isth_')")
_KILL = text(
    "select count(pg_terminate_backend(pid)) from pg_stat_activity "
    "where starts_with(usename, 'isth_')"
)


@pytest.fixture
async def watcher(cluster: Cluster) -> AsyncIterator[AsyncEngine]:
    """The cluster's superuser, who sees every session."""
    engine = open_admin(cluster.data_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def hurried(
    data_url: str, operations: Operations, control: AsyncEngine
) -> AsyncIterator[SqlService]:
    """A service with two connections and a short time limit."""
    async with open_postgresql(data_url, SECRET, connections=2, timeout_seconds=1.0) as engine:
        yield SqlService(operations, control, engine)


async def until(watcher: AsyncEngine, query: object, wanted: int) -> None:
    """Wait until the server says so; five seconds at most."""
    async with asyncio.timeout(5), watcher.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        while await autocommit.scalar(query) != wanted:  # pyright: ignore[reportCallIssue, reportArgumentType]
            await asyncio.sleep(0.02)


async def test_a_statement_beyond_the_limit_is_stopped_on_the_server(
    hurried: SqlService, principal: Principal, watcher: AsyncEngine
) -> None:
    with pytest.raises(Timeout, match="within 1 s"):
        await hurried.query(principal, SLOW)
    await until(watcher, _ACTIVE, 0)
    assert (await hurried.query(principal, "select 1"))["rows"] == [[1]]


async def test_the_callers_deadline_stops_it_earlier(
    sql: SqlService, principal: Principal, watcher: AsyncEngine
) -> None:
    begun = asyncio.get_running_loop().time()
    with pytest.raises(Timeout):
        await sql.query(principal, SLOW, deadline=begun + 0.3)
    assert asyncio.get_running_loop().time() - begun < 5
    await until(watcher, _ACTIVE, 0)


async def test_a_caller_that_goes_away_stops_its_statement(
    sql: SqlService, principal: Principal, watcher: AsyncEngine
) -> None:
    task = asyncio.create_task(sql.query(principal, SLOW))
    await until(watcher, _ACTIVE, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(watcher, _ACTIVE, 0)


async def test_a_write_that_timed_out_left_nothing(
    hurried: SqlService, principal: Principal
) -> None:
    await hurried.execute(principal, "create table t (a int)")
    with pytest.raises(Timeout):
        await hurried.execute(principal, f"insert into t select 1 from ({SLOW}) s")
    assert (await hurried.query(principal, "select count(*) from t"))["rows"] == [[0]]


async def test_many_callers_share_few_connections(
    hurried: SqlService, control: AsyncEngine, watcher: AsyncEngine
) -> None:
    tenants = [await make_tenant(control) for _ in range(6)]
    for tenant in tenants:
        await hurried.execute(tenant, "create table t as select $$" + tenant.tenant + "$$ as name")
    answers = await asyncio.gather(
        *(hurried.query(tenant, "select name from t") for tenant in tenants * 5)
    )
    assert [answer["rows"] for answer in answers] == [[[tenant.tenant]] for tenant in tenants * 5]


async def test_a_slow_tenant_leaves_connections_to_others(
    hurried: SqlService, principal: Principal, stranger: Principal
) -> None:
    for who in (principal, stranger):
        await hurried.query(who, "select 1")
    slow = [asyncio.create_task(hurried.query(principal, SLOW)) for _ in range(4)]
    await asyncio.sleep(0)
    async with asyncio.timeout(0.9):
        assert (await hurried.query(stranger, "select 2"))["rows"] == [[2]]
    outcomes = await asyncio.gather(*slow, return_exceptions=True)
    assert all(isinstance(outcome, Timeout) for outcome in outcomes)


async def test_nothing_of_a_call_is_left_for_the_next(
    sql: SqlService, principal: Principal
) -> None:
    await sql.execute(principal, "create sequence s")
    await sql.execute(principal, "select nextval('s')")
    for statement in ("select lastval()", "select currval('s')"):
        with pytest.raises(AppError, match="not yet defined"):
            await sql.execute(principal, statement)


async def test_idle_connections_that_died_are_replaced(
    sql: SqlService, principal: Principal, watcher: AsyncEngine
) -> None:
    await sql.execute(principal, "create table t as select 1 as a")
    await sql.query(principal, "select 1")
    async with watcher.begin() as connection:
        assert await connection.scalar(_KILL)
    await asyncio.gather(*(sql.query(principal, "select a from t") for _ in range(8)))
    assert (await sql.execute(principal, "update t set a = 2"))["row_count"] == 1


async def test_a_connection_that_dies_during_a_write_is_reported_as_uncertain(
    sql: SqlService, principal: Principal, watcher: AsyncEngine
) -> None:
    await sql.execute(principal, "create table t (a int)")
    task = asyncio.create_task(sql.execute(principal, f"insert into t select 1 from ({SLOW}) s"))
    await until(watcher, _ACTIVE, 1)
    async with watcher.begin() as connection:
        await connection.scalar(_KILL)
    with pytest.raises(Unavailable, match="whether it took effect"):
        await task
    assert (await sql.query(principal, "select * from t"))["rows"] == []


async def test_a_new_secret_key_keeps_the_tables(
    data_url: str,
    sql: SqlService,
    operations: Operations,
    control: AsyncEngine,
    principal: Principal,
) -> None:
    await sql.execute(principal, "create table t as select 1 as a")
    async with open_postgresql(data_url, b"another secret key, 32 bytes long") as engine:
        other = SqlService(operations, control, engine)
        assert (await other.query(principal, "select a from t"))["rows"] == [[1]]
        assert (await other.execute(principal, "drop table t"))["row_count"] == 0


async def test_two_processes_make_the_same_tenant_at_once(
    data_url: str, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    async with (
        open_postgresql(data_url, SECRET) as first,
        open_postgresql(data_url, SECRET) as second,
    ):
        services = [SqlService(operations, control, engine) for engine in (first, second)]
        answers = await asyncio.gather(
            *(service.query(principal, "select 1") for service in services * 4)
        )
    assert [answer["rows"] for answer in answers] == [[[1]]] * 8


async def test_a_database_that_is_not_there_is_unavailable(
    operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    async with open_postgresql("postgresql://nobody:x@127.0.0.1:1/nothing", SECRET) as engine:
        service = SqlService(operations, control, engine)
        with pytest.raises(Unavailable, match="does not answer"):
            await service.query(principal, "select 1")
        with pytest.raises(Unavailable):
            await engine.ping()


async def test_the_control_database_is_refused_as_the_tenants(
    cluster: Cluster, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    async with open_postgresql(cluster.control_url, SECRET) as engine:
        with pytest.raises(Unavailable, match="names the control database"):
            await SqlService(operations, control, engine).query(principal, "select 1")


async def test_an_owner_that_may_not_create_roles_is_told_so(
    cluster: Cluster, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    admin = open_admin(cluster.data_url)
    async with admin.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("create role weak login password 'weak'"))
        await autocommit.execute(text("create database weak_data owner weak"))
    await admin.dispose()
    async with open_postgresql(cluster.url("weak_data", "weak", "weak"), SECRET) as engine:
        with pytest.raises(Unavailable, match="CREATEROLE"):
            await SqlService(operations, control, engine).query(principal, "select 1")


async def test_a_database_made_anew_gets_its_schemas_again(
    cluster: Cluster, operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    admin = open_admin(cluster.data_url)
    for _ in range(2):  # the second time the roles exist already
        async with admin.connect() as connection:
            autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await autocommit.execute(text("drop database if exists anew"))
            await autocommit.execute(text("create database anew"))
        async with open_postgresql(cluster.url("anew"), SECRET) as engine:
            service = SqlService(operations, control, engine)
            await service.execute(principal, "create table t (a int)")
    await admin.dispose()


async def test_closing_the_engine_closes_its_connections(
    data_url: str,
    operations: Operations,
    control: AsyncEngine,
    principal: Principal,
    watcher: AsyncEngine,
) -> None:
    async with watcher.connect() as connection:
        before = await connection.scalar(_OPEN)
    async with open_postgresql(data_url, SECRET) as engine:
        await SqlService(operations, control, engine).query(principal, "select 1")
    await until(watcher, _OPEN, before or 0)
