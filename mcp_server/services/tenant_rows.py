"""A tenant's rows in the control database, found by the catalog: a new table is erased and proven without a list."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

BATCH = 5000
# What an engine of its own has still to delete: its collector empties this list.
COLLECTED = frozenset({"vector_garbage"})

_TABLES = text(
    """
    select c.relname::text as name,
        exists (select from pg_attribute where attrelid = c.oid and attname = 'blob') as blobs
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant'
    where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
    order by c.relname
    """
)
# Rows that hang on a tenant's by a foreign key, and name no tenant themselves.
_CHILDREN = text(
    """
    select child.relname::text as name, parent.relname::text as parent,
        child_key.attname::text as key, parent_key.attname::text as parent_key,
        exists (select from pg_attribute where attrelid = child.oid and attname = 'blob') as blobs
    from pg_constraint f
    join pg_class child on child.oid = f.conrelid
    join pg_class parent on parent.oid = f.confrelid
    join pg_attribute child_key on child_key.attrelid = child.oid and child_key.attnum = f.conkey[1]
    join pg_attribute parent_key
        on parent_key.attrelid = parent.oid and parent_key.attnum = f.confkey[1]
    where f.contype = 'f' and child.relkind = 'r'
        and exists (select from pg_attribute where attrelid = parent.oid and attname = 'tenant')
        and not exists (select from pg_attribute where attrelid = child.oid and attname = 'tenant')
    order by child.relname
    """
)


@dataclass(frozen=True, slots=True)
class TenantTable:
    """A table, and the condition under which one of its rows is the tenant `:tenant`'s."""

    name: str
    condition: str
    blobs: bool


async def tenant_tables(tx: AsyncConnection) -> list[TenantTable]:
    """Return every table that holds tenants' rows, those first that hang on others."""
    children = [
        TenantTable(
            row.name,
            f'"{row.key}" in (select "{row.parent_key}" from "{row.parent}" where tenant = :tenant)',  # noqa: S608
            row.blobs,
        )
        for row in await tx.execute(_CHILDREN)
    ]
    own = [
        TenantTable(row.name, "tenant = :tenant", row.blobs) for row in await tx.execute(_TABLES)
    ]
    return children + own


async def count(tx: AsyncConnection, tenant: str) -> dict[str, int]:
    """Return how many rows of a tenant each table holds."""
    found: dict[str, int] = {}
    for table in await tenant_tables(tx):
        query = text(f'select count(*) from "{table.name}" where {table.condition}')  # noqa: S608  names from the catalog
        found[table.name] = await tx.scalar(query, {"tenant": tenant}) or 0
    known = text("select count(*) from tenants where name = :tenant")
    found["tenants"] = await tx.scalar(known, {"tenant": tenant}) or 0
    return found


async def blobs(tx: AsyncConnection, tenant: str) -> set[str]:
    """Return the keys of every blob that a tenant's rows name."""
    found: set[str] = set()
    for table in await tenant_tables(tx):
        if table.blobs:
            query = text(f'select blob from "{table.name}" where {table.condition}')  # noqa: S608
            found.update(await tx.scalars(query, {"tenant": tenant}))
    return found


async def delete_batch(tx: AsyncConnection, table: TenantTable, tenant: str) -> int:
    """Delete up to 5,000 of a tenant's rows in one table; return how many there were."""
    doomed = text(
        f'delete from "{table.name}" where ctid = any(array('  # noqa: S608
        f'select ctid from "{table.name}" where {table.condition} limit {BATCH} for update skip locked))'
    )
    return (await tx.execute(doomed, {"tenant": tenant})).rowcount
