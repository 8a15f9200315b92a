"""What a statement would change: run within its rights and limits, and taken back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Conflict, Forbidden, InvalidInput, Timeout
from mcp_server.placement import Placements
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql import Page
from mcp_server.storage.sql.postgresql import open_postgresql
from tests.conftest import SECRET


@pytest.fixture(autouse=True)
async def tables(sql: SqlService, principal: Principal) -> None:
    for statement in (
        "create table t (a int primary key, b text)",
        "insert into t select g, 'old' from generate_series(1, 50) g",
        "create table numbered (id serial, n int)",
    ):
        await sql.execute(principal, statement)


async def rows(sql: SqlService, who: Principal) -> Any:
    return (await sql.query(who, "select * from t order by a"))["rows"]


async def journalled(control: AsyncEngine, who: Principal) -> int:
    async with control.connect() as connection:
        return (
            await connection.scalar(
                text("select count(*) from journal where tenant = :t"), {"t": who.tenant}
            )
            or 0
        )


@pytest.mark.parametrize(
    ("statement", "count", "first"),
    [
        ("update t set b = 'new' where a <= 3", 3, {"before": [1, "old"], "after": [1, "new"]}),
        ("delete from t where a = 2; -- gone", 1, {"before": [2, "old"], "after": None}),
        ("insert into t values (99, 'x') /* c */", 1, {"before": None, "after": [99, "x"]}),
        (
            "insert into t values (1, 'x') on conflict (a) do update set b = excluded.b",
            1,
            {"before": [1, "old"], "after": [1, "x"]},
        ),
        (
            "update main.t u set b = s.b || '!' from t s where s.a = u.a and u.a = 4",
            1,
            {"before": [4, "old"], "after": [4, "old!"]},
        ),
        (
            "merge into t using (values (5)) s (a) on t.a = s.a when matched then delete",
            1,
            {"before": [5, "old"], "after": None},
        ),
        (
            "with s as (select 6 as a) delete from t using s where s.a = t.a",
            1,
            {"before": [6, "old"], "after": None},
        ),
    ],
)
async def test_a_preview_shows_rows_before_and_after_and_changes_nothing(
    sql: SqlService,
    control: AsyncEngine,
    principal: Principal,
    statement: str,
    count: int,
    first: dict[str, Any],
) -> None:
    before, entries = await rows(sql, principal), await journalled(control, principal)
    shown = await sql.execute(principal, statement, preview=True, key="k")
    assert shown["row_count"] == count
    preview = shown.get("preview")
    assert preview is not None
    assert preview["tables"] == ["t"]
    assert [column["name"] for column in preview["columns"]] == ["a", "b"]
    assert preview["changes"][0] == first
    assert "rolled back" in preview["note"]
    assert await rows(sql, principal) == before
    assert await journalled(control, principal) == entries
    # The key was not used up: the statement itself still takes effect.
    done = await sql.execute(principal, statement, key="k")
    assert (done["row_count"], "preview" in done) == (count, False)
    assert await rows(sql, principal) != before


async def test_the_sample_is_bounded_and_the_count_is_not(
    sql: SqlService, principal: Principal
) -> None:
    await sql.execute(principal, "insert into t select g, 'old' from generate_series(51, 5000) g")
    shown = await sql.execute(principal, "update t set b = repeat('x', 30)", preview=True)
    preview = shown.get("preview")
    assert preview is not None
    assert (shown["row_count"], len(preview["changes"]), preview["truncated"]) == (5000, 20, True)
    wide = await sql.execute(
        principal, "update t set b = repeat('x', 300000) where a <= 30", preview=True
    )
    preview = wide.get("preview")
    assert preview is not None
    assert (wide["row_count"], preview["changes"], preview["truncated"]) == (30, [], True)
    shown = await sql.execute(principal, "delete from t returning a", max_rows=3, preview=True)
    assert (shown["row_count"], shown["rows"]) == (5000, [[1], [2], [3]])
    assert shown["truncated"]
    assert shown["next_cursor"] is None


async def test_definitions_can_be_previewed(sql: SqlService, principal: Principal) -> None:
    before = await sql.schema(principal, detail="full")
    for statement in (
        "create table u (a int)",
        "drop table t",
        "alter table t add column c int default 5",
        "truncate t",
        "create table v as select * from t",
    ):
        shown = await sql.execute(principal, statement, preview=True)
        preview = shown.get("preview")
        assert preview is not None
        assert preview["tables"]
        assert preview["changes"] == []
    assert await sql.schema(principal, detail="full") == before
    assert len(await rows(sql, principal)) == 50


async def test_only_what_sequences_drew_stays(sql: SqlService, principal: Principal) -> None:
    shown = await sql.execute(principal, "insert into numbered (n) values (1)", preview=True)
    preview = shown.get("preview")
    assert preview is not None
    assert preview["changes"] == [{"before": None, "after": [1, 1]}]
    await sql.execute(principal, "insert into numbered (n) values (1)")
    assert (await sql.query(principal, "select id from numbered"))["rows"] == [[2]]
    for call in ("nextval('numbered_id_seq')", "setval('numbered_id_seq', 900)"):
        with pytest.raises(InvalidInput, match="preview"):
            await sql.execute(principal, f"select {call}", preview=True)
    assert (await sql.query(principal, "select last_value from numbered_id_seq"))["rows"] == [[2]]


async def test_a_preview_fails_as_the_statement_would(
    sql: SqlService, principal: Principal
) -> None:
    await sql.execute(
        principal,
        "create table child (a int references t deferrable initially deferred)",
    )
    for statement, kind in (
        ("insert into t values (1, 'x')", Conflict),
        ("insert into child values (777)", Conflict),
        ("select pg_sleep(1)", Forbidden),
        ("update nowhere set a = 1", InvalidInput),
        ("select 1; delete from t", InvalidInput),
    ):
        with pytest.raises(AppError) as caught:
            await sql.execute(principal, statement, preview=True)
        assert isinstance(caught.value, kind), statement
    assert len(await rows(sql, principal)) == 50


async def test_a_preview_needs_the_right_to_write_and_shows_rows_only_to_who_may_read(
    sql: SqlService, principal: Principal
) -> None:
    reader = Principal(principal.tenant, "reader", frozenset({"read"}))
    with pytest.raises(Forbidden, match="lacks the scope"):
        await sql.execute(reader, "delete from t", preview=True)
    writer = Principal(principal.tenant, "writer", frozenset({"write"}))
    shown = await sql.execute(writer, "delete from t", preview=True)
    preview = shown.get("preview")
    assert preview is not None
    assert (shown["row_count"], preview["changes"], preview["columns"]) == (50, [], [])


async def test_a_preview_holds_no_longer_than_the_deadline(
    data_url: str, sql: SqlService, principal: Principal
) -> None:
    slow = "update t set b = (select count(*) from generate_series(1, 100000000))::text"
    async with open_postgresql(data_url, SECRET, connections=2, timeout_seconds=0.5) as engine:
        schema = Placements(data_url)(principal.tenant).schema
        checked = await engine.check(schema, slow, writable=True)
        with pytest.raises(Timeout):
            await engine.preview(schema, checked, [], Page(10, 1000), sample=True)
    # Its locks are gone with it.
    async with asyncio.timeout(10):
        await sql.execute(principal, "update t set b = 'free'")
