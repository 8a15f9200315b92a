"""What the journal says about tenants' statements: an intent before, the outcome after."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Timeout
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql.schema import journal
from tests.contract.sql.test_time import SLOW


async def entries(control: AsyncEngine, who: Principal) -> list[tuple[str, str, str]]:
    """Return (verb, uri, statement label) in the order written."""
    query = (
        select(journal.c.verb, journal.c.uri, journal.c.labels)
        .where(journal.c.tenant == who.tenant)
        .order_by(journal.c.xid, journal.c.seq)
    )
    async with control.connect() as connection:
        return [(row.verb, row.uri, row.labels[0]) for row in await connection.execute(query)]


async def test_a_write_is_an_intent_and_then_a_write_for_each_table(
    sql: SqlService, principal: Principal, control: AsyncEngine
) -> None:
    await sql.execute(principal, "create table a (x int)")
    await sql.execute(principal, "create table b (x int)")
    await sql.execute(
        principal, "with gone as (delete from b returning x) insert into a select x from gone"
    )
    found = await entries(control, principal)
    assert [entry[:2] for entry in found] == [
        ("intent", "sql://main/a"),
        ("write", "sql://main/a"),
        ("intent", "sql://main/b"),
        ("write", "sql://main/b"),
        ("intent", "sql://main/a"),
        ("intent", "sql://main/b"),
        ("write", "sql://main/a"),
        ("write", "sql://main/b"),
    ]
    labels = [entry[2] for entry in found]
    assert len(set(labels)) == 3
    assert len(set(labels[4:])) == 1


async def test_moving_a_sequence_is_a_write(
    sql: SqlService, principal: Principal, control: AsyncEngine
) -> None:
    await sql.execute(principal, "create sequence s")
    await sql.execute(principal, "select nextval('s')")
    assert [entry[:2] for entry in await entries(control, principal)] == [
        ("intent", "sql://main/s"),
        ("write", "sql://main/s"),
    ] * 2


async def test_a_statement_that_failed_is_aborted(
    sql: SqlService, principal: Principal, control: AsyncEngine
) -> None:
    with pytest.raises(AppError):
        await sql.execute(principal, "insert into nothing values (1)")
    assert [entry[0] for entry in await entries(control, principal)] == ["intent", "abort"]


async def test_an_uncertain_outcome_leaves_the_intent_alone(
    sql: SqlService, principal: Principal, control: AsyncEngine
) -> None:
    await sql.execute(principal, "create table t (a int)")
    soon = asyncio.get_running_loop().time() + 0.3
    with pytest.raises(Timeout):
        await sql.execute(principal, f"insert into t select 1 from ({SLOW}) s", deadline=soon)
    assert [entry[0] for entry in await entries(control, principal)] == [
        "intent",
        "write",
        "intent",
    ]


@pytest.mark.parametrize("statement", ["select 1", "select * from t", "explain delete from t"])
async def test_reading_is_not_journalled(
    sql: SqlService, principal: Principal, control: AsyncEngine, statement: str
) -> None:
    await sql.execute(principal, "create table t (a int)")
    before = await entries(control, principal)
    await sql.execute(principal, statement)
    if "delete" not in statement:
        await sql.query(principal, statement)
    assert await entries(control, principal) == before
