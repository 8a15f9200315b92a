"""Tenants' SQL through the service: pages, errors, names, policy."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import (
    AppError,
    Conflict,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
)
from mcp_server.services.sql import SqlService
from tests.conftest import make_tenant


async def value(sql: SqlService, who: Principal, expression: str, *params: Any) -> Any:
    return (await sql.query(who, f"select {expression}", list(params)))["rows"][0][0]


async def test_a_table_is_made_filled_and_read(sql: SqlService, principal: Principal) -> None:
    await sql.execute(principal, "create table t(a int, b text)")
    written = await sql.execute(principal, "insert into t values ($1, $2)", [1, "ü"])
    assert (written["columns"], written["rows"], written["row_count"]) == ([], [], 1)
    assert await sql.query(principal, "select * from t") == {
        "columns": [{"name": "a", "type": "integer"}, {"name": "b", "type": "text"}],
        "rows": [[1, "ü"]],
        "row_count": 1,
        "truncated": False,
        "next_cursor": None,
    }


async def test_rows_beyond_max_rows_come_by_cursor(sql: SqlService, principal: Principal) -> None:
    statement = "select g from generate_series(1, $1::int) g order by g"
    seen: list[int] = []
    cursor = None
    while True:
        page = await sql.query(principal, statement, [25], max_rows=10, cursor=cursor)
        seen += [row[0] for row in page["rows"]]
        assert page["row_count"] == len(page["rows"])
        cursor = page["next_cursor"]
        assert page["truncated"] is (cursor is not None)
        if cursor is None:
            break
    assert seen == list(range(1, 26))


async def test_exactly_max_rows_are_not_truncated(sql: SqlService, principal: Principal) -> None:
    page = await sql.query(principal, "select generate_series(1, 10)", max_rows=10)
    assert (page["truncated"], page["row_count"]) == (False, 10)


async def test_a_cursor_fits_only_its_statement(
    sql: SqlService, principal: Principal, stranger: Principal
) -> None:
    statement = "select generate_series(1, 9)"
    cursor = (await sql.query(principal, statement, max_rows=2))["next_cursor"]
    for who, other, given_ in (
        (principal, "select generate_series(1, 8)", cursor),
        (stranger, statement, cursor),
        (principal, statement, "garbage"),
        (principal, statement, "ü"),
        (principal, statement, ""),
    ):
        with pytest.raises(InvalidInput, match="cursor"):
            await sql.query(who, other, cursor=given_)


async def test_bytes_are_capped(sql: SqlService, principal: Principal) -> None:
    statement = "select g, repeat('x', 1000000) from generate_series(1, 9) g"
    page = await sql.query(principal, statement)
    assert 0 < page["row_count"] < 5
    assert page["truncated"]
    rest = await sql.query(principal, statement, cursor=page["next_cursor"])
    assert rest["rows"][0][0] == page["row_count"] + 1


@pytest.mark.parametrize("size", [5_000_000, 60_000_000])
async def test_a_row_that_is_too_large_is_an_error(
    sql: SqlService, principal: Principal, size: int
) -> None:
    with pytest.raises(LimitExceeded, match="fewer columns"):
        await sql.query(principal, f"select repeat('x', {size})")
    assert await value(sql, principal, "1") == 1


async def test_a_truncated_write_is_whole_and_cannot_be_continued(
    sql: SqlService, principal: Principal
) -> None:
    await sql.execute(principal, "create table t (a int)")
    insert = "insert into t select generate_series(1, 50) returning a"
    page = await sql.execute(principal, insert, max_rows=3)
    assert (page["truncated"], page["row_count"], page["next_cursor"]) == (True, 3, None)
    assert await value(sql, principal, "count(*) from t") == 50


async def test_reading_moves_no_sequence_even_through_a_view(
    sql: SqlService, principal: Principal
) -> None:
    await sql.execute(principal, "create sequence s")
    await sql.execute(principal, "create view v as select nextval('s')")
    with pytest.raises(Forbidden, match="only reads"):
        await sql.query(principal, "select * from v")
    assert (await sql.execute(principal, "select * from v"))["rows"] == [[1]]


async def test_execute_continues_a_select_but_nothing_with_effects(
    sql: SqlService, principal: Principal
) -> None:
    await sql.execute(principal, "create table t as select generate_series(1, 5) as a")
    select = "select a from t order by a"
    first = await sql.execute(principal, select, max_rows=3)
    rest = await sql.execute(principal, select, cursor=first["next_cursor"])
    assert rest["rows"] == [[4], [5]]
    locking = "select a from t order by a for update"
    assert (await sql.execute(principal, locking, max_rows=3))["next_cursor"] is None


async def test_too_many_params_are_refused(sql: SqlService, principal: Principal) -> None:
    with pytest.raises(InvalidInput, match="params"):
        await sql.query(principal, "select 1", [1] * 40_000)


@pytest.mark.parametrize("max_rows", [0, -1, 10_001])
async def test_max_rows_has_bounds(sql: SqlService, principal: Principal, max_rows: int) -> None:
    with pytest.raises(InvalidInput, match="max_rows"):
        await sql.query(principal, "select 1", max_rows=max_rows)


@pytest.mark.parametrize(
    ("statement", "kind", "say"),
    [
        ("selec 1", InvalidInput, 'syntax error at or near "selec"'),
        ("select * from nothing", InvalidInput, "SQLSTATE 42P01, at character 15"),
        ("select 'ü', nope", InvalidInput, "at character 13"),
        ("select 1/0", InvalidInput, "division by zero"),
        ("insert into t values (1)", Conflict, "duplicate key"),
        ("insert into u values (7)", Conflict, "foreign key"),
        ("insert into t values (null)", InvalidInput, "null value"),
        ("create table t (a int)", Conflict, "already exists"),
        ("drop table t", Conflict, "cascade"),
        ("delete from nothing", InvalidInput, '"nothing" does not exist'),
        ("", InvalidInput, "no statement"),
        ("-- nothing", InvalidInput, "no statement"),
        ("select 'a\0b'", InvalidInput, "NUL"),
        ("select '\ud800'", InvalidInput, "surrogate"),
    ],
)
async def test_errors_say_what_is_wrong_without_opaque_names(
    sql: SqlService, principal: Principal, statement: str, kind: type[AppError], say: str
) -> None:
    await sql.execute(principal, "create table t (a int primary key)")
    await sql.execute(principal, "create table u (a int references t)")
    await sql.execute(principal, "insert into t values (1)")
    with pytest.raises(kind) as caught:
        await sql.execute(principal, statement)
    assert say.lower() in caught.value.message.lower()
    for opaque in ("tenant_", "isth_"):
        assert opaque not in caught.value.message


async def test_main_names_the_own_schema(sql: SqlService, principal: Principal) -> None:
    await sql.execute(principal, "create table main.t (a int)")
    await sql.execute(principal, "insert into main.t values (1)")
    # An alias called main is an alias, and a CTE does not capture the qualified name.
    back = await sql.query(
        principal,
        'with t as (select 2 as a) select main.t.a, main.a, c.a from main.t, "main".t as main, t c',
    )
    assert back["rows"] == [[1, 1, 2]]
    await sql.execute(principal, "drop table main.t")


@pytest.mark.parametrize("form", ["text", "json", "yaml"])
async def test_explain_shows_no_opaque_name(
    sql: SqlService, principal: Principal, form: str
) -> None:
    await sql.execute(principal, "create table t (a int)")
    plan = await sql.query(principal, f"explain (verbose, settings, format {form}) select * from t")
    assert "tenant_" not in str(plan["rows"])
    assert "main" in str(plan["rows"])


async def test_tenants_do_not_see_each_other(
    sql: SqlService, principal: Principal, stranger: Principal
) -> None:
    for who, number in ((principal, 1), (stranger, 2)):
        await sql.execute(who, "create table t (a int)")
        await sql.execute(who, "insert into t values ($1)", [number])
    assert await value(sql, principal, "a from t") == 1
    assert await value(sql, stranger, "a from t") == 2


async def test_a_database_by_name_is_not_found(sql: SqlService, principal: Principal) -> None:
    for call in (sql.query, sql.execute):
        with pytest.raises(NotFound, match="not configured"):
            await call(principal, "select 1", database="sales")
    with pytest.raises(NotFound, match="not configured"):
        await sql.schema(principal, database="sales")


async def test_scopes_hold_per_table(
    sql: SqlService, principal: Principal, control: AsyncEngine
) -> None:
    for statement in ("create table shown (a int)", "create table hidden (a int)"):
        await sql.execute(principal, statement)
    narrow = Principal(
        principal.tenant, "narrow", frozenset({"read:sql://main/shown*", "write:sql://main/shown*"})
    )
    assert (await sql.query(narrow, "select * from shown"))["rows"] == []
    assert (await sql.execute(narrow, "insert into shown values (1)"))["row_count"] == 1
    assert [item["name"] for item in (await sql.schema(narrow))["tables"]] == ["shown"]
    for statement in (
        "select * from hidden",
        "select * from shown, hidden",
        "select * from shown where a in (select a from hidden)",
        "with shown as (select * from hidden) select * from shown",
        "with hidden as (select * from hidden) select * from hidden",
    ):
        with pytest.raises(Forbidden, match="hidden"):
            await sql.query(narrow, statement)
    for statement in (
        "insert into hidden values (1)",
        "insert into shown select a from hidden",
        "alter table shown rename to hidden",
        "drop table shown, hidden",
        "create view shown_view as select * from hidden",
        "truncate hidden",
    ):
        with pytest.raises(Forbidden, match="hidden"):
            await sql.execute(narrow, statement)
    reader = Principal(principal.tenant, "reader", frozenset({"read"}))
    for statement in ("delete from shown", "select * from shown for update"):
        with pytest.raises(Forbidden, match="write"):
            await sql.execute(reader, statement)
    nobody = await make_tenant(control, "run")
    with pytest.raises(Forbidden):
        await sql.query(nobody, "select 1")
