"""What hostile statements and arguments cannot do beside reading others: take time, reach the control database, break the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, LimitExceeded, NotFound, Timeout
from mcp_server.operation import Operations
from mcp_server.placement import Placements
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql.connections import Role
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.postgresql import open_postgresql
from mcp_server.storage.sql.tenant_roles import TenantRoles
from mcp_server.storage.sql.wake import TOPICS
from tests.conftest import SECRET
from tests.contract.sql.test_hostile import lines

LIMIT = 0.2
ODD = [
    "'; drop table victim; --",
    '"; drop table victim; --',
    "%' or true --",
    "*" * 1024,
    "%?" * 512,
    "\\",
    "\\%",
    "a\\",
    "pg_catalog.pg_class",
    "information_schema.tables",
    "main.victim",
    "..",
    "/etc/passwd",
    "${jndi:ldap://127.0.0.1/}",
    "{0.__class__}",
    "\u202egnp.exe",
    "ｖｉｃｔｉｍ",
    "é" * 63,
    "x" * 1024,
]


@pytest.fixture
async def hurried(
    data_url: str, operations: Operations, control: AsyncEngine
) -> AsyncIterator[SqlService]:
    async with open_postgresql(data_url, SECRET, connections=8, timeout_seconds=LIMIT) as engine:
        yield SqlService(operations, control, engine)


@pytest.mark.parametrize("statement", lines("slow.sql"))
async def test_no_statement_takes_longer_than_the_limit(
    sql: SqlService, hurried: SqlService, principal: Principal, statement: str
) -> None:
    await sql.execute(principal, "create table victim (a int)")
    await sql.execute(principal, "insert into victim select g from generate_series(1, 100) g")
    for door, options in (
        (hurried.query, {}),
        (hurried.execute, {"preview": True}),
        (hurried.explain, {"analyze": True}),
    ):
        begun = time.monotonic()
        with pytest.raises((Timeout, LimitExceeded)):
            await cast("Any", door)(principal, statement, **options)
        assert time.monotonic() - begun < LIMIT + 10  # the machine is shared
    assert (await sql.query(principal, "select 1"))["rows"] == [[1]]


@pytest.mark.parametrize("odd", ODD)
async def test_no_argument_but_sql_is_sql(sql: SqlService, principal: Principal, odd: str) -> None:
    await sql.execute(principal, "create table victim (a int)")
    calls: list[Any] = [
        sql.schema(principal, odd, detail)  # pyright: ignore[reportArgumentType]
        for detail in ("names", "summary", "full", odd)
    ]
    calls += [
        sql.query(principal, "select 1", database=odd),
        sql.query(principal, "select 1", cursor=odd),
        sql.execute(principal, "select 1", database=odd, preview=True),
        sql.explain(principal, "select 1", database=odd),
        sql.schema(principal, database=odd),
        sql.explain(principal, "select $1::int", [odd]),
        sql.execute(principal, "insert into victim values ($1)", [odd], preview=True),
        sql.table(principal, odd, "victim"),
        sql.table(principal, "main", odd),
    ]
    for call in calls:
        try:
            answer = await call
        except AppError as error:
            assert error.code in {"invalid_input", "not_found"}, error
        else:
            assert {item["name"] for item in answer.get("tables", [])} <= {"victim"}
    assert (await sql.query(principal, "select * from victim"))["rows"] == []


async def test_nothing_of_a_tenants_reaches_the_control_database(
    sql: SqlService, principal: Principal, cluster: Cluster, data_url: str, control: AsyncEngine
) -> None:
    """Its roles may not log in there; what they say and lock elsewhere is not heard there."""
    await sql.execute(principal, "create table t (a int)")
    place = Placements(data_url)(principal.tenant)
    roles = TenantRoles(SECRET, make_url(data_url).database or "")
    listener: Any = await asyncpg.connect(cluster.control_url)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    heard: list[Any] = []
    for topic in (*TOPICS, "x", "journal", "isthmus"):
        await listener.add_listener(topic, lambda *event: heard.append(event))
    try:
        for writable in (False, True):
            role = Role(place.schema, writable)
            with pytest.raises(asyncpg.PostgresError):
                await asyncpg.connect(  # pyright: ignore[reportUnknownMemberType]
                    cluster.control_url, user=roles.name(role), password=roles.password(role)
                )
        async with control.connect() as connection:
            locks = text("select count(*) from pg_locks where locktype = 'advisory'")
            before = await connection.scalar(locks)
            for channel in (*TOPICS, "x"):
                for statement in (
                    f"notify {channel}",
                    f"select pg_notify('{channel}', '1')",
                    "select pg_advisory_lock(1)",
                ):
                    for door in (sql.query, sql.execute, sql.explain):
                        with pytest.raises(AppError):
                            await door(principal, statement)
            assert await connection.scalar(locks) == before
        await listener.execute("select 1")  # whatever was sent has arrived by now
        assert heard == []
    finally:
        await listener.close()


async def test_a_hundred_hostile_calls_at_once_leave_the_server_up(
    sql: SqlService, principal: Principal, stranger: Principal
) -> None:
    await sql.execute(stranger, "create table mine (a int)")
    statements = lines("slow.sql")[:2] + lines("reading_refuses.sql")
    calls = [
        asyncio.create_task(sql.query(principal, statements[at % len(statements)]))
        for at in range(100)
    ]
    async with asyncio.timeout(20):
        assert (await sql.query(stranger, "select count(*) from mine"))["rows"] == [[0]]
    for call in calls:
        call.cancel()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, AppError | asyncio.CancelledError)
    async with asyncio.timeout(20):
        with pytest.raises(NotFound):
            await sql.table(principal, "main", "mine")
