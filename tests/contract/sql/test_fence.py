"""What the database itself withholds from a tenant's role, if a statement ever passed the parser."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.placement import Placements
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql.connections import Role
from mcp_server.storage.sql.postgresql import PostgresqlEngine
from mcp_server.storage.sql.statements.functions import ALLOWED_FUNCTIONS, VOLATILE_FUNCTIONS
from mcp_server.storage.sql.tenant_roles import TenantRoles
from tests.conftest import SECRET

# Each also where the owner of the database is no superuser.
ALWAYS = """
select * from {other}.secret
insert into {other}.secret values (1)
drop table {other}.secret
create table {other}.x (a int)
select nextval('{other}.secret_a_seq')
create table public.x (a int)
create temp table x (a int)
create schema x
create database x
create role x
create extension vector
set role {other_role}
set session authorization {other_role}
alter role {other_role} password 'x'
select pg_read_file('/etc/passwd')
select lo_import('/etc/passwd')
copy victim to '/tmp/isthmus-test'
copy victim from program 'id'
select pg_terminate_backend(pid) from pg_stat_activity where usename = '{owner}'
grant select on victim to {other_role_unknown}
alter schema {own} rename to x
drop schema {own} cascade
select rolpassword from pg_authid
alter system set log_statement = 'all'
"""
# Only a superuser can take these from a role.
SUPERUSER = """
select pg_notify('channel', 'forged')
select pg_advisory_lock(1)
select lo_from_bytea(0, 'x')
select lo_create(0)
select pg_sleep(1)
select set_config('statement_timeout', '0', false)
select current_setting('data_directory')
select query_to_xml('select 1', true, true, '')
select pg_export_snapshot()
select * from pg_class
select * from pg_roles
select * from pg_stat_activity
select * from pg_proc
select * from pg_settings
select * from information_schema.tables
create function f() returns int language sql as 'select 1'
do $$ begin perform 1; end $$
select 1259::oid::regclass::text, pg_describe_object(1259, 1259, 0)
select has_table_privilege('victim', 'select')
"""
READER = """
insert into victim values (1)
update victim set a = 1
delete from victim
truncate victim
drop table victim
create table x (a int)
select nextval('counter')
select setval('counter', 5)
select * from victim for update
"""


class Raw:
    """Connections as a tenant's roles, without the parser before them."""

    def __init__(self, engine: PostgresqlEngine, owner: Principal, other: Principal) -> None:
        url = make_url(engine.url)
        self._url = engine.url
        self._roles = TenantRoles(SECRET, url.database or "")
        place = Placements(engine.url)
        self.schema = place(owner.tenant).schema
        self.names = {
            "own": self.schema,
            "other": place(other.tenant).schema,
            "other_role": self._roles.name(Role(place(other.tenant).schema, writable=True)),
            "other_role_unknown": "nobody_at_all",
            "owner": url.username or "",
        }

    async def connect(self, *, writable: bool) -> asyncpg.Connection:
        role = Role(self.schema, writable)
        return await asyncpg.connect(
            self._url, user=self._roles.name(role), password=self._roles.password(role)
        )


@pytest.fixture
async def raw(
    sql: SqlService, engine: PostgresqlEngine, principal: Principal, stranger: Principal
) -> Raw:
    await sql.execute(principal, "create table victim (a int)")
    await sql.execute(principal, "create sequence counter")
    await sql.execute(stranger, "create table secret (a serial)")
    return Raw(engine, principal, stranger)


async def denied(raw: Raw, script: str, *, writable: bool) -> None:
    connection = await raw.connect(writable=writable)
    try:
        for line in script.strip().splitlines():
            with pytest.raises(asyncpg.PostgresError) as caught:
                await connection.fetch(line.format(**raw.names))
            state: str = caught.value.as_dict()["sqlstate"]
            assert state[:2] in {"42", "25", "22", "28", "0A"}, (line, caught.value)
    finally:
        await connection.close()


async def test_the_roles_reach_nothing_of_others(raw: Raw) -> None:
    for writable in (True, False):
        await denied(raw, ALWAYS, writable=writable)


async def test_the_reading_role_writes_nothing_even_outside_a_read_only_transaction(
    raw: Raw,
) -> None:
    connection = await raw.connect(writable=False)
    try:
        await connection.execute("set default_transaction_read_only = off")
        for line in READER.strip().splitlines():
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(line)
    finally:
        await connection.close()


async def test_a_superusers_database_also_closes_the_catalog_and_the_volatile_functions(
    raw: Raw, admin: AsyncEngine
) -> None:
    async with admin.connect() as connection:
        superuser = await connection.scalar(text("select current_setting('is_superuser')"))
    if superuser == "on":
        for writable in (True, False):
            await denied(raw, SUPERUSER, writable=writable)
    else:
        connection = await raw.connect(writable=True)
        assert await connection.fetchval("select count(*) > 0 from pg_class")
        await connection.close()


async def test_each_allowed_function_is_harmless_by_its_catalog_entry(admin: AsyncEngine) -> None:
    query = text(
        """
        select proname::text, bool_or(provolatile = 'v') as volatile,
               bool_or('internal'::regtype = any (proargtypes)) as internal
        from pg_proc where pronamespace = 'pg_catalog'::regnamespace and proname = any (:names)
        group by proname
        """
    )
    async with admin.connect() as connection:
        rows = (await connection.execute(query, {"names": sorted(ALLOWED_FUNCTIONS)})).all()
    assert {row.proname for row in rows if row.volatile} <= VOLATILE_FUNCTIONS
    assert not [row.proname for row in rows if row.internal]
    assert len(rows) > 350


async def test_names_of_roles_and_schemas_do_not_show_the_tenant(
    raw: Raw, admin: AsyncEngine, principal: Principal
) -> None:
    async with admin.connect() as connection:
        roles = (await connection.execute(text("select rolname::text from pg_roles"))).scalars()
        schemas = (
            await connection.execute(text("select nspname::text from pg_namespace"))
        ).scalars()
        assert not [name for name in (*roles, *schemas) if principal.tenant in name]
