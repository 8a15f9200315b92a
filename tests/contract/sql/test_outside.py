"""Databases of the operator's: reached by name, by those whose scopes name them, as a role that is no more than it should be."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import OWNER, Principal
from mcp_server.errors import (
    AppError,
    ConfigurationError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Timeout,
    Unavailable,
)
from mcp_server.operation import Operations
from mcp_server.services.changes import ChangeService
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql import Page
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.outside import open_outside
from mcp_server.storage.sql.postgresql import open_postgresql
from tests.conftest import SECRET, make_tenant
from tests.contract.sql.conftest import open_admin

ROLES = """
create role crm_ro login password 'ro-secret';
create role crm_rw login password 'rw-secret';
create role crm_files login password 'files-secret';
grant pg_read_server_files to crm_files;
create role crm_nested login password 'nested-secret';
create role crm_between; grant pg_execute_server_program to crm_between; grant crm_between to crm_nested;
create role crm_replica login replication password 'replica-secret'
"""
TABLES = """
create schema sales;
create table orders (id serial primary key, note text not null);
create table sales.leads (id int primary key, who text, o int references public.orders);
create table secrets (a text);
insert into orders (note) values ('first'), ('second');
insert into sales.leads values (1, 'Ann', 1);
create function shout(orders) returns text language sql as 'select upper($1.note)';
create function add_order() returns int language sql security definer
    as 'insert into public.orders (note) values (''by function'') returning id';
grant usage on schema sales to crm_ro, crm_rw;
grant select on orders, sales.leads to crm_ro;
grant all on orders, orders_id_seq, sales.leads to crm_rw;
grant create on schema public to crm_rw
"""


@dataclass(frozen=True)
class World:
    """`crm` is read-only, `crmrw` the same database to be written; `named` has scopes for both."""

    sql: SqlService
    named: Principal


@pytest.fixture(scope="module")
async def crm(cluster: Cluster) -> str:
    """A database with two schemas, and its name."""
    owner = open_admin(cluster.data_url)
    name = f"crm_{uuid.uuid4().hex[:8]}"
    async with owner.connect() as connection:
        plain = await connection.execution_options(isolation_level="AUTOCOMMIT")
        exists = await plain.scalar(text("select true from pg_roles where rolname = 'crm_ro'"))
        for statement in () if exists else ROLES.split(";"):
            await plain.execute(text(statement))
        await plain.execute(text(f"create database {name}"))
    await owner.dispose()
    owner = open_admin(cluster.data_url.replace("/isthmus_data", f"/{name}"))
    async with owner.begin() as connection:
        for statement in TABLES.split(";"):
            await connection.exec_driver_sql(statement)
    await owner.dispose()
    return name


@pytest.fixture(scope="module")
async def world(
    cluster: Cluster, crm: str, operations: Operations, control: AsyncEngine
) -> AsyncIterator[World]:
    options: dict[str, Any] = {"schema": "public", "timeout_seconds": 2.0}
    reading = cluster.url(crm, "crm_ro", "ro-secret")
    writing = cluster.url(crm, "crm_rw", "rw-secret")
    tenant = await make_tenant(control)
    named = Principal(
        tenant.tenant,
        "named",
        frozenset({"read:sql://crm/*", "read:sql://crmrw/*", "write:sql://crmrw/*"}),
    )
    async with (
        open_postgresql(cluster.data_url, SECRET, connections=4) as engine,
        open_outside("crm", reading, writable=False, **options) as crm_,
        open_outside("crmrw", writing, writable=True, **options) as crmrw,
    ):
        sql = SqlService(operations, control, engine, {"crm": crm_, "crmrw": crmrw})
        yield World(sql, named)


async def notes(world: World) -> list[Any]:
    answer = await world.sql.query(
        world.named, "select note from orders order by id", database="crm"
    )
    return [row[0] for row in answer["rows"]]


async def test_its_tables_can_be_read_and_described(world: World) -> None:
    joined = await world.sql.query(
        world.named,
        "select l.who, o.note from sales.leads l join orders o on o.id = l.o where o.id = $1",
        [1],
        database="crm",
    )
    assert joined["rows"] == [["Ann", "first"]]
    shown = (await world.sql.schema(world.named, detail="full", database="crm"))["tables"]
    # What its role may not read is not shown.
    assert [(item["schema"], item["name"]) for item in shown] == [
        ("public", "orders"),
        ("sales", "leads"),
    ]
    assert shown[1]["foreign_keys"] == [{"columns": ["o"], "table": "orders", "references": ["id"]}]
    for pattern in ("sales.*", "lea?s", "who"):
        found = await world.sql.schema(world.named, pattern, "names", database="crm")
        assert [item["name"] for item in found["tables"]] == ["leads"]
    plan = await world.sql.explain(
        world.named, "select * from orders", database="crm", analyze=True
    )
    assert plan["rows"] == 2
    paged = await world.sql.query(
        world.named, "select id from orders order by 1", max_rows=1, database="crm"
    )
    rest = await world.sql.query(
        world.named,
        "select id from orders order by 1",
        max_rows=1,
        cursor=paged["next_cursor"],
        database="crm",
    )
    assert (paged["rows"], rest["rows"]) == ([[1]], [[2]])


@pytest.mark.parametrize(
    "statement",
    [
        "insert into orders (note) values ('x')",
        "update orders set note = 'x'",
        "delete from orders",
        "create table x (a int)",
        "select nextval('orders_id_seq')",
        "select * from orders for update",
        "with d as (delete from orders returning *) select * from d",
        "truncate orders",
    ],
)
async def test_a_read_only_one_is_never_written(world: World, statement: str) -> None:
    for preview in (False, True):
        with pytest.raises(Forbidden):
            await world.sql.execute(world.named, statement, database="crm", preview=preview)
        with pytest.raises(Forbidden):
            await world.sql.execute(OWNER, statement, database="crm", preview=preview)
    for database in ("crm", "crmrw"):
        with pytest.raises(Forbidden):
            await world.sql.query(OWNER, statement, database=database)
        with pytest.raises((Forbidden, InvalidInput)):
            await world.sql.explain(OWNER, statement, analyze=True, database=database)
    assert await notes(world) == ["first", "second"]


@pytest.mark.parametrize(
    "statement",
    [
        "select * from pg_class",
        "select * from pg_catalog.pg_authid",
        "select * from information_schema.tables",
        "select * from pg_temp.x",
        "select pg_read_file('/etc/passwd')",
        "select * from sales.leads, lateral pg_ls_dir('/')",
        "select add_order()",
        "select public.add_order()",
        "select * from public.add_order()",
        "select o.shout from orders o",
        "select (o).shout from orders o",
        "select current_user",
        "select set_config('transaction_read_only', 'off', false)",
        "set transaction read write",
        "commit",
        "select 1; delete from orders",
        "copy orders to '/tmp/x'",
        "copy orders to program 'id'",
        "listen x",
        "notify x",
        "select pg_notify('x', 'y')",
        "select pg_advisory_lock(1)",
        "select dblink('', '')",
        "select lo_import('/etc/passwd')",
        "do $$ begin end $$",
        "create function f() returns int language sql as 'select 1'",
        "create extension dblink",
        "load 'x'",
        "select 1::regclass",
        "select null::pg_class",
        "select * from crm.public.orders",
        "select crm.public.orders.id from orders",
        'select * from "a.b".c',
        "select query_to_xml('select 1', true, true, '')",
        "create temp table x (a int)",
        "lock table orders",
        "call p()",
        "explain execute p",
        "declare c cursor for select 1",
        "vacuum",
        "alter role crm_rw superuser",
        "grant all on orders to public",
        "create schema x",
        "drop schema sales cascade",
        "create trigger t before insert on orders for each row execute function f()",
        "alter table orders enable row level security",
        "alter table orders owner to crm_ro",
        "select * from isthmus.effects",
    ],
)
async def test_the_whitelist_holds_there_too(world: World, statement: str) -> None:
    for database in ("crm", "crmrw"):
        for tool in (world.sql.query, world.sql.execute, world.sql.explain):
            with pytest.raises(AppError) as caught:
                await tool(world.named, statement, database=database)
            assert caught.value.code in {"forbidden", "invalid_input"}, statement
    assert await notes(world) == ["first", "second"]


async def test_one_that_may_be_written_is_and_the_journal_tells(
    world: World, control: AsyncEngine, operations: Operations
) -> None:
    previewed = await world.sql.execute(
        world.named,
        "update sales.leads set who = 'Bob' where id = 1",
        database="crmrw",
        preview=True,
    )
    preview = previewed.get("preview")
    assert preview is not None
    assert preview["tables"] == ["sales.leads"]
    assert preview["changes"] == [{"before": [1, "Ann", 1], "after": [1, "Bob", 1]}]
    done = await world.sql.execute(
        world.named, "insert into sales.leads values (2, 'Bob')", database="crmrw", key="k1"
    )
    again = await world.sql.execute(
        world.named, "insert into sales.leads values (2, 'Bob')", database="crmrw", key="k1"
    )
    assert done == again
    with pytest.raises(Conflict, match="other params"):
        await world.sql.execute(
            world.named,
            "insert into sales.leads values (2, 'Bob')",
            [1],
            database="crmrw",
            key="k1",
        )
    await world.sql.execute(world.named, "delete from sales.leads where id = 2", database="crmrw")
    async with control.connect() as connection:
        entries = await connection.execute(
            text("select verb, uri from journal where tenant = :t order by xid, seq"),
            {"t": world.named.tenant},
        )
    uri = "sql://crmrw/sales.leads"
    expected = [("intent", uri), ("write", uri)] * 2
    assert [tuple(row) for row in entries] == expected
    changes = ChangeService(operations, control)
    # A key of the same tenant that the database is not named to does not hear of it.
    plain = Principal(world.named.tenant, "plain", frozenset({"read"}))
    assert [item["uri"] for item in (await changes.list(world.named))["items"]] == [uri] * 4
    assert (await changes.list(plain))["items"] == []


async def test_a_repetition_of_unknown_outcome_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = "insert into sales.leads values (7, 'Eve')"
    place = world.sql._places(world.named, "crmrw")  # pyright: ignore[reportPrivateUsage]
    with monkeypatch.context() as broken:

        async def lost(*_: object) -> None:
            raise Unavailable("the connection broke")

        broken.setattr(place.database, "run", lost)
        with pytest.raises(Unavailable):
            await world.sql.execute(world.named, statement, database="crmrw", key="k2")
    with pytest.raises(Conflict, match="may have taken effect"):
        await world.sql.execute(world.named, statement, database="crmrw", key="k2")


@pytest.mark.parametrize(
    ("scopes", "may_read", "may_write"),
    [
        ({"read", "write", "run"}, False, False),
        ({"read", "write", "run", "admin"}, False, False),
        ({"read:sql://*", "write:sql://*"}, False, False),
        ({"read:sql://crm*"}, False, False),
        ({"read:sql://crmrw/*"}, True, False),
        ({"read:sql://crmrw/public.orders"}, True, False),
        ({"read:sql://crmrw/sales.*"}, False, False),
        ({"read:sql://crm/*"}, False, False),
        ({"read:sql://crmrw/orders"}, False, False),
        ({"read", "read:sql://crmrw/*", "write:sql://crmrw/public.*"}, True, True),
    ],
)
async def test_only_scopes_that_name_it_reach_it(
    world: World, scopes: set[str], may_read: bool, may_write: bool
) -> None:
    caller = Principal(world.named.tenant, "caller", frozenset(scopes))
    for allowed, call in (
        (may_read, world.sql.query(caller, "select 1 from orders", database="crmrw")),
        (
            may_write,
            world.sql.execute(
                caller, "delete from orders where id = -1 and note = ''", database="crmrw"
            ),
        ),
    ):
        try:
            await call
        except (Forbidden, NotFound):
            assert not allowed
        else:
            assert allowed
    if not any("crmrw/" in scope for scope in scopes):
        unknown = await error_of(world, caller, "nowhere")
        assert await error_of(world, caller, "crmrw") == unknown.replace("nowhere", "crmrw")


async def error_of(world: World, caller: Principal, database: str) -> str:
    with pytest.raises(NotFound) as caught:
        await world.sql.query(caller, "select 1", database=database)
    return caught.value.message


async def test_the_operator_reaches_all(world: World) -> None:
    assert (await world.sql.query(OWNER, "select count(*) from orders", database="crm"))[
        "rows"
    ] == [[2]]
    assert policy.explain(OWNER, "read", "sql://crm/public.orders")["allowed"] is True
    assert policy.explain(world.named, "write", "sql://crm/public.orders")["allowed"] is False


async def test_a_statement_there_is_bounded_in_time_and_rows(world: World) -> None:
    with pytest.raises(Timeout):
        await world.sql.query(
            world.named, "select count(*) from generate_series(1, 10000000000)", database="crm"
        )
    wide = await world.sql.query(
        world.named, "select repeat('x', 100000) from generate_series(1, 500)", database="crm"
    )
    assert wide["truncated"]
    assert len(wide["rows"]) < 60


@pytest.mark.parametrize(
    ("role", "power"),
    [
        ("crm_files", "pg_read_server_files"),
        ("crm_nested", "pg_execute_server_program"),
        ("crm_replica", "REPLICATION"),
        (None, "SUPERUSER"),
    ],
)
async def test_a_read_only_one_with_a_mighty_role_is_refused_at_start(
    cluster: Cluster, crm: str, role: str | None, power: str
) -> None:
    url = cluster.data_url.replace("/isthmus_data", f"/{crm}")
    if role is not None:
        url = cluster.url(crm, role, f"{role.removeprefix('crm_')}-secret")
    options: dict[str, Any] = {"schema": "public", "timeout_seconds": 2.0}
    with pytest.raises(ConfigurationError, match=f"'crm'.*{power}") as caught:
        async with open_outside("crm", url, writable=False, **options):
            pass
    assert "secret" not in str(caught.value)
    assert "postgres" not in str(caught.value)
    async with open_outside("crm", url, writable=True, **options):
        pass  # who may write it anyway is told in the log


async def test_a_role_that_grows_mighty_is_refused_from_then_on(
    world: World, crm: str, cluster: Cluster
) -> None:
    admin = open_admin(cluster.data_url)
    async with admin.begin() as connection:
        await connection.execute(text("create role crm_grown login password 'grown-secret'"))
    url = cluster.url(crm, "crm_grown", "grown-secret")
    async with open_outside(
        "crm", url, schema="public", writable=False, timeout_seconds=2.0
    ) as database:
        checked = await database.database.check("public", "select 1", writable=False)
        assert (await database.database.run("public", checked, [], Page(1, 100))).rows == [[1]]
        async with admin.begin() as connection:
            await connection.execute(text("grant pg_write_server_files to crm_grown"))
            await connection.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'crm_grown'"
                )
            )
        with pytest.raises(Unavailable, match="role is refused"):
            await database.database.run("public", checked, [], Page(1, 100))
    await admin.dispose()


async def test_our_own_databases_are_no_databases_of_the_operators(cluster: Cluster) -> None:
    async with open_postgresql(cluster.data_url, SECRET) as engine:
        await engine.check("main", "select 1", writable=False)  # it is ours from its first use on
    for url in (cluster.control_url, cluster.data_url):
        with pytest.raises(ConfigurationError, match="Isthmus itself"):
            async with open_outside(
                "crm", url, schema="public", writable=True, timeout_seconds=2.0
            ):
                pass


async def test_a_wrong_password_ends_the_start_and_an_absent_server_does_not(
    cluster: Cluster, crm: str, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"schema": "public", "writable": False, "timeout_seconds": 2.0}
    wrong = cluster.url(crm, "crm_ro", "not-the-secret")
    with pytest.raises(ConfigurationError, match="password; correct the URL") as caught:
        async with open_outside("crm", wrong, **options):
            pass
    absent = "postgresql://someone:hidden-secret@127.0.0.1:1/db"
    async with open_outside("gone", absent, **options) as database:
        for call in (
            database.database.check("public", "select 1", writable=False),
            database.database.ping(),
        ):
            with pytest.raises(Unavailable, match="'gone'"):
                await call
    assert "secret" not in str(caught.value) + caplog.text
