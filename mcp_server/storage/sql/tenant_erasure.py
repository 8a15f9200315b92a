"""Takes all of a tenant out of the data database: tables, privileges, marks and login roles."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.storage.sql.connections import Role
from mcp_server.storage.sql.fence import LOCK
from mcp_server.storage.sql.tenant_roles import TenantRoles

_EXISTING = text("select rolname::text from pg_roles where rolname = any(:roles)")
_DISCONNECT = text(
    "select pg_terminate_backend(pid) from pg_stat_activity where usename = any(:roles)"
)
_MARKS = ("effects", "writers")
_HAS_MARKS = text("select to_regclass('isthmus.effects') is not null")
_LEFT = text(
    """
    select (select count(*) from pg_class where relnamespace = to_regnamespace(:schema))
        as "tables and indexes",
        (select count(*) from pg_namespace where nspname = :schema) as schemas,
        (select count(*) from pg_roles where rolname = any(:roles)) as roles
    """
)


async def lock_out(connection: AsyncConnection, roles: TenantRoles, schema: str) -> None:
    """Let no session of the tenant begin, and end those that are open; takes effect with the commit.

    Raises:
        sqlalchemy.exc.DBAPIError: the owner may not.
    """
    await connection.execute(LOCK)
    existing = await _existing(connection, roles, schema)
    for name in existing:
        # Ending its sessions and dropping what it owns need membership, unless for a superuser.
        await connection.exec_driver_sql(f"grant {name} to current_user")
        await connection.exec_driver_sql(f"alter role {name} nologin")
    await connection.execute(_DISCONNECT, {"roles": existing})


async def erase(connection: AsyncConnection, roles: TenantRoles, schema: str) -> None:
    """Leave nothing of a tenant that is locked out, in a transaction of the owner; may be repeated.

    Raises:
        sqlalchemy.exc.DBAPIError: the owner may not.
    """
    await connection.execute(LOCK)
    existing = await _existing(connection, roles, schema)
    await connection.execute(_DISCONNECT, {"roles": existing})
    await connection.exec_driver_sql(f"drop schema if exists {schema} cascade")
    if await connection.scalar(_HAS_MARKS):
        for table in _MARKS:
            gone = text(f"delete from isthmus.{table} where role = any(:roles)")  # noqa: S608  names of ours
            await connection.execute(gone, {"roles": _names(roles, schema)})
    for name in existing:
        await connection.exec_driver_sql(f"drop owned by {name}")
        await connection.exec_driver_sql(f"drop role {name}")


async def left(connection: AsyncConnection, roles: TenantRoles, schema: str) -> dict[str, int]:
    """Count what is there of a tenant, by kind."""
    given = {"schema": schema, "roles": _names(roles, schema)}
    found = dict((await connection.execute(_LEFT, given)).mappings().one())
    if await connection.scalar(_HAS_MARKS):
        for table in _MARKS:
            count = text(f"select count(*) from isthmus.{table} where role = any(:roles)")  # noqa: S608
            found[f"isthmus.{table}"] = await connection.scalar(count, {"roles": given["roles"]})
    return found


async def _existing(connection: AsyncConnection, roles: TenantRoles, schema: str) -> list[str]:
    names = {"roles": _names(roles, schema)}
    return list((await connection.execute(_EXISTING, names)).scalars())


def _names(roles: TenantRoles, schema: str) -> list[str]:
    return [roles.name(Role(schema, writable)) for writable in (True, False)]
