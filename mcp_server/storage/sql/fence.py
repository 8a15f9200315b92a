"""What the data database takes from every role, so that a statement the parser let through finds nothing.

Only a superuser may do most of it. Where the owner of an outside database is none, the tenants' own
privileges and the parser are what holds, and a warning says so once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import Unavailable
from mcp_server.storage.sql import tenant_effects_schema
from mcp_server.storage.sql.statements import grammar
from mcp_server.storage.sql.statements.functions import ALLOWED_FUNCTIONS
from mcp_server.storage.sql.statements.grammar import Reserved
from mcp_server.storage.sql.values import PgType

logger = logging.getLogger(__name__)

# "tenants" in ASCII: the advisory lock under which one process at a time changes roles and privileges.
LOCK = text("select pg_advisory_xact_lock(x'74656e616e7473'::bigint)")

# A function of the system that stays executable although a tenant may not name it: it implements a type,
# a cast or an operator, or stands in the partition constraint of a hash partition.
_FUNCTIONS = text(
    """
    select p.oid::regprocedure::text from pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace
      and p.proname <> all(:allowed) and p.proname <> 'satisfies_hash_partition'
      and (p.proacl is null or exists (
            select from aclexplode(p.proacl) g where g.grantee = 0 and g.privilege_type = 'EXECUTE'))
      and not exists (select from pg_operator o where o.oprcode = p.oid)
      and not exists (select from pg_cast c where c.castfunc = p.oid)
      and not exists (select from pg_type t where p.oid in (
            t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout,
            t.typanalyze, t.typsubscript))
    """
)
_CATALOG_OPEN = text(
    """
    select exists (
        select from pg_class c, aclexplode(c.relacl) g
        where c.relnamespace = 'pg_catalog'::regnamespace and g.grantee = 0
          and g.privilege_type = 'SELECT')
    """
)
_CLOSE_CATALOG = """
revoke select on all tables in schema pg_catalog from public;
revoke usage on schema information_schema from public;
revoke usage on language sql, plpgsql from public
"""
_CLOSE_DATABASE = """
revoke connect, temporary on database "{database}" from public;
revoke all on schema public from public
"""
_DATABASE = text(
    """
    select current_setting('is_superuser') = 'on' as superuser,
           pg_has_role(d.datdba, 'usage') as owner, d.datname as database,
           to_regclass('alembic_version') is not null as control,
           exists (select from aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) g
                   where g.grantee = 0)
           or exists (select from pg_namespace n, aclexplode(n.nspacl) g
                      where n.nspname = 'public' and g.grantee = 0) as open
    from pg_database d where d.datname = current_database()
    """
)
_ATTRIBUTES = text(
    """
    select proname::text from pg_proc
    where (pronamespace <> 'pg_catalog'::regnamespace or proname <> all(:allowed))
      and (pronargs >= 1 and pronargs - pronargdefaults <= 1 or provariadic <> 0)
    union
    select typname::text from pg_type
    where typnamespace = 'pg_catalog'::regnamespace and typname ~ '^(_?reg|_?aclitem)'
    """
)
_TYPES = text(
    """
    select oid::bigint, format_type(oid, null) as name, typname::text as base, typdelim::text,
           case when typcategory = 'A' then typelem::bigint else 0 end as element
    from pg_type where typnamespace = 'pg_catalog'::regnamespace
    """
)
# Casts that a column may be named after, and that tell nothing.
_HARMLESS = frozenset({"oid", "xid", "xml"})


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the server's own catalog says, read once: the reserved names, and the types by OID."""

    superuser: bool
    reserved: Reserved
    types: dict[int, PgType]


async def raise_fence(connection: AsyncConnection) -> Catalog:
    """Take from PUBLIC what no tenant needs, make the schema of effects, and return what the catalog says.

    Idempotent. Call it in a transaction of the data database's owner.

    Raises:
        Unavailable: it is the control database, which tenants must not enter.
    """
    await connection.execute(LOCK)
    rights = (await connection.execute(_DATABASE)).one()
    if rights.control:
        raise Unavailable(
            "ISTHMUS_DATA_URL names the control database; give the tenants' SQL one of its own"
        )
    if rights.superuser:
        await _revoke_functions(connection)
        if await connection.scalar(_CATALOG_OPEN):
            await _run(connection, _CLOSE_CATALOG)
    else:
        logger.warning(
            "the owner of the data database is no superuser: tenants are kept apart by their roles "
            "and the parser only, and PostgreSQL's catalog stays readable to their roles"
        )
    if rights.open and (rights.superuser or rights.owner):
        database = rights.database.replace('"', '""')
        await _run(connection, _CLOSE_DATABASE.format(database=database))
    await tenant_effects_schema.install(connection)
    return await read_catalog(connection, superuser=rights.superuser)


async def _revoke_functions(connection: AsyncConnection) -> None:
    allowed = {"allowed": sorted(ALLOWED_FUNCTIONS)}
    functions = (await connection.execute(_FUNCTIONS, allowed)).scalars().all()
    if functions:
        await _run(connection, f"revoke execute on function {', '.join(functions)} from public")


async def _run(connection: AsyncConnection, script: str) -> None:
    for statement in script.split(";"):
        await connection.exec_driver_sql(statement)


async def read_catalog(connection: AsyncConnection, *, superuser: bool) -> Catalog:
    """Return what the catalog says; every schema's functions of one argument are reserved as attributes."""
    allowed = {"allowed": sorted(ALLOWED_FUNCTIONS)}
    attributes = (await connection.execute(_ATTRIBUTES, allowed)).scalars().all()
    rows = (await connection.execute(_TYPES)).all()
    types = {row.oid: PgType(row.name, row.base) for row in rows}
    for row in rows:
        if row.element:
            element = types.get(row.element)
            types[row.oid] = PgType(row.name, row.base, element, row.typdelim)
    unavailable = {row.base for row in rows} - grammar.BUILTIN_TYPES
    return Catalog(
        superuser=superuser,
        reserved=Reserved(frozenset(attributes) - _HARMLESS, frozenset(unavailable)),
        types=types,
    )
