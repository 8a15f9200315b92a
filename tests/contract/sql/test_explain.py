"""How PostgreSQL would run a statement: planned always, run only on demand and only to read."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Forbidden, InvalidInput
from mcp_server.services.sql import SqlService
from tests.conftest import make_tenant


@pytest.fixture(autouse=True)
async def table(sql: SqlService, principal: Principal) -> None:
    await sql.execute(principal, "create table t (a int primary key, b text)")
    await sql.execute(principal, "insert into t select g, 'x' from generate_series(1, 5000) g")


async def test_a_plan_comes_as_json_and_as_text(sql: SqlService, principal: Principal) -> None:
    shown = await sql.explain(principal, "select * from main.t where a = $1", [7])
    assert shown["plan"]["Plan"]["Relation Name"] == "t"
    assert shown["text"].splitlines()[0].count(" on t (cost ") == 1
    assert "a = " in shown["text"]
    assert shown["total_cost"] == shown["plan"]["Plan"]["Total Cost"]
    assert (shown["analyzed"], shown["milliseconds"]) == (False, None)
    assert "tenant_" not in str(shown)


async def test_analyze_runs_it_and_tells_what_it_took(
    sql: SqlService, principal: Principal
) -> None:
    shown = await sql.explain(principal, "select * from t where b = 'x';", analyze=True)
    assert shown["analyzed"]
    assert shown["rows"] == 5000
    assert shown["milliseconds"] is not None
    assert shown["milliseconds"] > 0
    assert "really 5000" in shown["text"]


@pytest.mark.parametrize(
    "statement",
    [
        "insert into t values (9999, 'y')",
        "update t set b = 'y'",
        "delete from t",
        "merge into t using t s on t.a = s.a when matched then delete",
        "with gone as (delete from t returning *) select * from gone",
    ],
)
async def test_what_writes_is_planned_and_never_run(
    sql: SqlService, principal: Principal, statement: str
) -> None:
    shown = await sql.explain(principal, statement)
    assert "on t" in shown["text"]
    with pytest.raises(Forbidden, match="only reads"):
        await sql.explain(principal, statement, analyze=True)
    counted = await sql.query(principal, "select count(*), max(b) from t")
    assert counted["rows"] == [[5000, "x"]]


@pytest.mark.parametrize(
    "statement",
    [
        "create table u (a int)",
        "drop table t",
        "explain select 1",
        "explain analyze select 1",
        "truncate t",
    ],
)
async def test_what_has_no_plan_is_refused_by_name(
    sql: SqlService, principal: Principal, statement: str
) -> None:
    with pytest.raises(InvalidInput, match="has no plan"):
        await sql.explain(principal, statement)


@pytest.mark.parametrize("analyze", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        "select 1; drop table t",
        "(analyze) delete from t",
        "analyze delete from t",
        ") select 1",
        "select 1 -- \n; delete from t",
        "/* */",
        "",
        "select pg_sleep(99)",
        "select * from pg_class",
    ],
)
async def test_nothing_hides_behind_the_explain(
    sql: SqlService, principal: Principal, statement: str, analyze: bool
) -> None:
    with pytest.raises(AppError) as caught:
        await sql.explain(principal, statement, analyze=analyze)
    assert caught.value.code in {"forbidden", "invalid_input"}


async def test_planning_a_write_needs_the_right_to_read_its_table(
    sql: SqlService, control: AsyncEngine
) -> None:
    owner = await make_tenant(control)
    await sql.execute(owner, "create table t (a int)")
    narrow = Principal(owner.tenant, "narrow", frozenset({"read:sql://main/other*"}))
    for statement in ("select * from t", "delete from t"):
        with pytest.raises(Forbidden):
            await sql.explain(narrow, statement)
    async with control.connect() as connection:
        written = await connection.scalar(
            text(
                "select count(*) from journal where tenant = :t and verb = 'write' and uri like '%/t'"
            ),
            {"t": owner.tenant},
        )
    assert written == 1  # the table's making, and no more
