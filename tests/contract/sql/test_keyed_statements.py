"""Statements under a key, on each kind of owner: done once, and the marks out of every tenant's reach."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict
from mcp_server.operation import Operations
from mcp_server.placement import Placements
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql.connections import Role
from mcp_server.storage.sql.postgresql import PostgresqlEngine, open_postgresql
from mcp_server.storage.sql.tenant_effects import MAX_STORED_BYTES
from mcp_server.storage.sql.tenant_roles import TenantRoles
from tests.conftest import SECRET

INSERT = "insert into t values (1) returning a, clock_timestamp()"
# What a tenant's role must not do even if a statement passed the parser.
FORGERIES = """
select isthmus.begin_effect('', 'k', 's', 'a', null, null)
select isthmus.begin_effect(null, 'k', 's', 'a', null, null)
select isthmus.begin_effect('{password}', 'k', 's', 'a', 'run', 99)
select isthmus.finish_effect('', 'k', 's', null, null, 'forged')
select isthmus.finish_effect('', 'k', 's', 'run', 99, 'forged')
select isthmus.require_writer('')
select * from isthmus.effects
select * from isthmus.writers
select * from isthmus.fences for update
insert into isthmus.effects (role, key, statement, arguments) values (session_user, 'k', 's', 'a')
insert into isthmus.fences values ('run', 99)
update isthmus.writers set proof = ''
delete from isthmus.effects
truncate isthmus.fences
create table isthmus.x (a int)
create index on isthmus.effects (result)
create function isthmus.f() returns int language sql as 'select 1'
alter function isthmus.begin_effect security invoker
alter table isthmus.effects add column x int
drop table isthmus.effects
drop schema isthmus cascade
create table x (a text references isthmus.fences (run))
"""
# PostgreSQL only warns that these granted nothing.
GRANTS = """
grant usage on schema isthmus to public
grant create on schema isthmus to public
grant execute on function isthmus.begin_effect to public
"""
ACL = text(
    """
    select nspacl::text from pg_namespace where nspname = 'isthmus'
    union all
    select proacl::text from pg_proc where pronamespace = to_regnamespace('isthmus') order by 1
    """
)


async def marks(admin: AsyncEngine, key: str) -> int:
    async with admin.connect() as connection:
        query = text("select count(*) from isthmus.effects where key = :key")
        return await connection.scalar(query, {"key": key}) or 0


async def connect(
    engine: PostgresqlEngine, who: Principal, *, writable: bool
) -> asyncpg.Connection:
    roles = TenantRoles(SECRET, make_url(engine.url).database or "")
    role = Role(Placements(engine.url)(who.tenant).schema, writable)
    return await asyncpg.connect(engine.url, user=roles.name(role), password=roles.password(role))


async def test_a_statement_is_done_once_for_a_key(
    sql: SqlService, principal: Principal, admin: AsyncEngine
) -> None:
    await sql.execute(principal, "create table t (a int)")
    answers = [await sql.execute(principal, INSERT, key="once") for _ in range(2)]
    answers += await asyncio.gather(*(sql.execute(principal, INSERT, key="once") for _ in range(4)))
    assert answers == [answers[0]] * 6
    assert (await sql.query(principal, "select * from t"))["rows"] == [[1]]
    assert await marks(admin, "once") == 1


async def test_a_role_that_got_past_the_parser_forges_no_mark(
    sql: SqlService, engine: PostgresqlEngine, principal: Principal, admin: AsyncEngine
) -> None:
    await sql.execute(principal, "create table t (a int)")
    await sql.execute(principal, INSERT, key="k")
    schema = Placements(engine.url)(principal.tenant).schema
    password = TenantRoles(SECRET, make_url(engine.url).database or "").password(Role(schema, True))
    before = await server_side(admin)
    for writable in (True, False):
        connection = await connect(engine, principal, writable=writable)
        try:
            for line in FORGERIES.strip().splitlines():
                with pytest.raises(asyncpg.PostgresError) as caught:
                    await connection.execute(line.format(password=password))
                assert caught.value.as_dict()["sqlstate"] in {"42501", "25006"}, line
            for line in GRANTS.strip().splitlines():
                with suppress(asyncpg.PostgresError):
                    await connection.execute(line)
        finally:
            await connection.close()
    assert await server_side(admin) == before


async def server_side(admin: AsyncEngine) -> list[Any]:
    """Everything of the marks, and who may use them."""
    async with admin.connect() as connection:
        tables = ("effects", "fences", "writers")
        queries = [*(text(f"select * from isthmus.{table} order by 1, 2") for table in tables), ACL]
        return [(await connection.execute(query)).all() for query in queries]


async def test_another_tenants_proof_admits_nobody(
    sql: SqlService, engine: PostgresqlEngine, principal: Principal, stranger: Principal
) -> None:
    for who in (principal, stranger):
        await sql.execute(who, "create table t (a int)")
    roles = TenantRoles(SECRET, make_url(engine.url).database or "")
    place = Placements(engine.url)
    begin = "select isthmus.begin_effect($1, 'k', 's', 'a', null, null)"
    connection = await connect(engine, principal, writable=True)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetchval(begin, roles.proof(place(stranger.tenant).schema))
        assert await connection.fetchval(begin, roles.proof(place(principal.tenant).schema)) is None
    finally:
        await connection.close()


async def test_nothing_of_the_marks_is_shown(sql: SqlService, principal: Principal) -> None:
    await sql.execute(principal, "create table t (a int)", key="k")
    shown = (await sql.schema(principal, detail="full"))["tables"]
    assert [table["name"] for table in shown] == ["t"]


async def test_what_only_reads_is_not_marked(
    sql: SqlService, principal: Principal, admin: AsyncEngine
) -> None:
    await sql.execute(principal, "create table t as select 1 as a")
    for statement in ("select a from t", "explain delete from t", "select a from t for update"):
        await sql.execute(principal, statement, key="reading")
    assert await marks(admin, "reading") == 0


async def test_a_failed_statement_leaves_no_mark(
    sql: SqlService, principal: Principal, admin: AsyncEngine
) -> None:
    await sql.execute(principal, "create table t (a int primary key)")
    await sql.execute(principal, "insert into t values (1)")
    for _ in range(2):
        with pytest.raises(Conflict):
            await sql.execute(principal, INSERT, key="failing")
    assert await marks(admin, "failing") == 0
    await sql.execute(principal, "delete from t")
    assert (await sql.execute(principal, INSERT, key="failing"))["row_count"] == 1


async def test_a_large_answer_is_repeated_without_its_rows(
    sql: SqlService, principal: Principal
) -> None:
    await sql.execute(principal, "create table t (a text)")
    large = "insert into t select repeat('x', 1000) from generate_series(1, 1200) returning a"
    first: Any = await sql.execute(principal, large, key="large", max_rows=10_000)
    assert len(first["rows"]) == 1200 > MAX_STORED_BYTES / 1000
    again: Any = await sql.execute(principal, large, key="large", max_rows=10_000)
    assert again == first | {"rows": [], "truncated": True}
    assert (await sql.query(principal, "select count(*) from t"))["rows"] == [[1200]]


@pytest.mark.parametrize(
    "value", ["'NaN'::float8", "numeric '1e400'", "'[1, {\"a\": null}]'::jsonb", "array[1, null]"]
)
async def test_any_answer_comes_back_unchanged(
    sql: SqlService, principal: Principal, value: str
) -> None:
    statement = f"create table t as select {value} as a"
    await sql.execute(principal, statement)
    update = "update t set a = a returning a, null, 'ü\U0001f600' || chr(8232)"
    first = await sql.execute(principal, update, key="k")
    assert await sql.execute(principal, update, key="k") == first
    assert first["rows"][0][1:] == [None, "ü\U0001f600\u2028"]


async def test_old_marks_and_fences_are_purged(
    sql: SqlService, principal: Principal, admin: AsyncEngine
) -> None:
    await sql.execute(principal, "create table t (a int)")
    for key in ("old", "young"):
        await sql.execute(principal, INSERT, key=f"purged {key} {principal.tenant}")
        await sql.raise_fence(f"{key} {principal.tenant}", 5)
    async with admin.begin() as connection:
        for table, column in (("effects", "key"), ("fences", "run")):
            await connection.execute(
                text(
                    f"update isthmus.{table} set at = now() - interval '8 days'"
                    f" where {column} like '%old {principal.tenant}'"
                )
            )
    assert await sql.purge_effects(7 * 24 * 3600) == 2
    assert await marks(admin, f"purged old {principal.tenant}") == 0
    assert await marks(admin, f"purged young {principal.tenant}") == 1
    assert await sql.purge_effects(7 * 24 * 3600) == 0


async def test_a_tenant_of_an_earlier_version_is_brought_up(
    sql: SqlService,
    data_url: str,
    operations: Operations,
    control: AsyncEngine,
    principal: Principal,
    admin: AsyncEngine,
) -> None:
    await sql.execute(principal, "create table t (a int)")
    async with admin.begin() as connection:
        await connection.execute(text("drop schema isthmus cascade"))
    engines = [open_postgresql(data_url, SECRET) for _ in range(2)]
    async with engines[0] as first, engines[1] as second:
        services = [SqlService(operations, control, engine) for engine in (first, second)]
        answers = await asyncio.gather(
            *(service.execute(principal, INSERT, key="k") for service in services * 2)
        )
    assert answers == [answers[0]] * 4
    # The process that knew the tenant already, too.
    assert await sql.execute(principal, INSERT, key="k") == answers[0]


async def test_a_new_secret_key_keeps_what_was_done(
    data_url: str,
    sql: SqlService,
    operations: Operations,
    control: AsyncEngine,
    principal: Principal,
) -> None:
    await sql.execute(principal, "create table t (a int)")
    first = await sql.execute(principal, INSERT, key="k")
    async with open_postgresql(data_url, b"another secret key, 32 bytes long") as engine:
        other = SqlService(operations, control, engine)
        assert await other.execute(principal, INSERT, key="k") == first
    assert await sql.execute(principal, INSERT, key="k") == first
