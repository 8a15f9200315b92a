"""What a tenant is shown of its own schema."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.auth.principal import Principal
from mcp_server.errors import Forbidden, InvalidInput, NotFound
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql import catalog


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
async def test_any_identifier_is_quoted_or_refused(
    sql: SqlService, principal: Principal, stranger: Principal, name: str
) -> None:
    """Whatever a table is called, it can be described and read, and no text of it is run."""
    quoted = '"' + name.replace('"', '""') + '"'
    if name.startswith("pg_"):
        with pytest.raises(Forbidden):
            await sql.execute(principal, f"create table {quoted} (a int)")
        return
    await sql.execute(principal, f"create table {quoted} (a int)")
    stored = [item["name"] for item in (await sql.schema(principal, detail="names"))["tables"]]
    try:
        assert len(stored) == 1
        assert name.startswith(stored[0])  # PostgreSQL cuts names to 63 bytes
        shown = await sql.table(principal, "main", stored[0])
        assert (shown["name"], shown["rows"]) == (stored[0], [])
        with pytest.raises(NotFound):
            await sql.table(stranger, "main", stored[0])
    finally:
        await sql.execute(principal, f"drop table {quoted}")


async def test_the_schema_shows_as_much_as_is_asked(
    sql: SqlService, principal: Principal, stranger: Principal
) -> None:
    assert (await sql.schema(principal))["tables"] == []
    for statement in (
        "create table orders (id int primary key, note text default 'x', total numeric(8,2) not null)",
        "create table lines_1 (o int references orders on delete cascade, n int check (n > 0))",
        "create index on lines_1 (n)",
        "create view big as select id from orders where total > 9",
        "comment on table orders is 'What was bought'",
        "comment on column orders.total is 'in EUR'",
    ):
        await sql.execute(principal, statement)
    names = (await sql.schema(principal, detail="names"))["tables"]
    assert names == [
        {"name": "big", "kind": "view"},
        {"name": "lines_1", "kind": "table"},
        {"name": "orders", "kind": "table"},
    ]
    (orders,) = (await sql.schema(principal, "ord*"))["tables"]
    assert orders["comment"] == "What was bought"
    assert orders["columns"][2] == {
        "name": "total",
        "type": "numeric(8,2)",
        "nullable": False,
        "comment": "in EUR",
    }
    (lines,) = (await sql.schema(principal, "lines%", "full"))["tables"]
    assert [item["definition"] for item in lines["constraints"]] == [
        "CHECK (n > 0)",
        "FOREIGN KEY (o) REFERENCES orders(id) ON DELETE CASCADE",
    ]
    assert lines["indexes"] == ["CREATE INDEX lines_1_n_idx ON lines_1 USING btree (n)"]
    (big,) = (await sql.schema(principal, "big", "full"))["tables"]
    assert "FROM orders" in big["definition"]
    everything = str((await sql.schema(principal, detail="full"))["tables"])
    assert "tenant_" not in everything
    for pattern in ("linesx1", "o_ders", "ORDERS", "\\"):
        assert (await sql.schema(principal, pattern))["tables"] == []
    assert (await sql.schema(stranger))["tables"] == []
    with pytest.raises(InvalidInput, match="detail"):
        await sql.schema(principal, detail="all")  # pyright: ignore[reportArgumentType]


async def test_a_table_as_a_resource_has_its_definition_and_first_rows(
    sql: SqlService, principal: Principal, stranger: Principal
) -> None:
    await sql.execute(principal, "create table t as select generate_series(1, 150) as n")
    shown = await sql.table(principal, "main", "t")
    assert shown["columns"] == [{"name": "n", "type": "integer", "nullable": True}]
    assert (len(shown["rows"]), shown["truncated"]) == (100, True)
    for who, schema, table in (
        (principal, "main", "u"),
        (principal, "main", "*"),
        (principal, "other", "t"),
        (principal, "pg_catalog", "pg_class"),
        (stranger, "main", "t"),
    ):
        with pytest.raises(NotFound, match="does not exist"):
            await sql.table(who, schema, table)


async def test_more_tables_than_one_answer_holds_are_left_out_and_told(
    sql: SqlService, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalog.MAX_TABLES, "summary", 2)
    for name in ("a1", "a2", "b1"):
        await sql.execute(principal, f"create table {name} (x int)")
    shown = await sql.schema(principal)
    assert [item["name"] for item in shown["tables"]] == ["a1", "a2"]
    assert shown.get("truncated") is True
    assert (await sql.schema(principal, "b*")) == await sql.schema(principal, "b1")
    assert "truncated" not in await sql.schema(principal, "b*")


async def test_an_answer_is_bounded_however_much_the_tables_hold(
    sql: SqlService, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    remark = "x" * 100_000
    for name in ("a", "b", "c"):
        columns = ", ".join(f"c{at} int" for at in range(40))
        await sql.execute(principal, f"create table {name} ({columns})")
        await sql.execute(principal, f"comment on table {name} is '{remark}'")
    (first, *_) = (await sql.schema(principal))["tables"]
    assert len(first["comment"]) == 2000
    with monkeypatch.context() as patched:
        patched.setattr(catalog, "MAX_BYTES", 5000)
        shown = await sql.schema(principal)
        assert (len(shown["tables"]), shown.get("truncated")) == (1, True)
    monkeypatch.setattr(catalog, "MAX_PARTS", 50)
    shown = await sql.schema(principal)  # the second table's columns are not all there
    assert [item["name"] for item in shown["tables"]] == ["a"]
    assert [len(item["columns"]) for item in shown["tables"]] == [40]
    assert shown.get("truncated") is True


async def test_a_pattern_also_finds_columns(sql: SqlService, principal: Principal) -> None:
    for statement in (
        "create table users (id int primary key, email text)",
        "create table orders (no int, region text, u int references users, primary key (no, region))",
        "create table email (a int)",
    ):
        await sql.execute(principal, statement)
    found = (await sql.schema(principal, "e?ail", "names"))["tables"]
    assert found == [
        {"name": "email", "kind": "table"},
        {"name": "users", "kind": "table", "matches": ["email"]},
    ]
    (orders,) = (await sql.schema(principal, "reg*"))["tables"]
    assert orders["matches"] == ["region"]
    assert orders["primary_key"] == ["no", "region"]
    assert "foreign_keys" not in orders
    (orders,) = (await sql.schema(principal, "orders", "full"))["tables"]
    assert orders["foreign_keys"] == [{"columns": ["u"], "table": "users", "references": ["id"]}]
    assert [column["name"] for column in orders["columns"]] == ["no", "region", "u"]


@pytest.mark.parametrize("name", ["\x1f", "a\nb", "x" * 63])
async def test_a_table_of_an_odd_name_can_be_read(
    sql: SqlService, principal: Principal, name: str
) -> None:
    await sql.execute(principal, f'create table "{name}" (a int)')
    assert (await sql.table(principal, "main", name))["name"] == name
    await sql.execute(principal, f'drop table "{name}"')


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "\ud800"])
async def test_a_name_that_no_table_can_have_is_not_found(
    sql: SqlService, principal: Principal, name: str
) -> None:
    with pytest.raises(NotFound):
        await sql.table(principal, "main", name)
