"""The tables of the control database that move, found by the catalog, and their rows as COPY has them."""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.services.moves.archive import PartWriter

# What belongs to a database and not to what is in it: its schema's revision, who works on it, what an
# engine of its own has to collect, the positions of a journal that begins anew, and moves themselves.
# Tenants are made, with their counters; vectors go the way of the engine that holds them. Uploads and
# links are addresses of the server that gave them. A unit of work is settled before it could move.
# Answers to requests that are sent again are those of the server that was asked.
STAYS = frozenset(
    {
        "alembic_version",
        "tenants",
        "run_leases",
        "garbage_blobs",
        "pinned_blobs",
        "journal_floors",
        "chunk_vectors",
        "vector_garbage",
        "import_parts",
        "object_uploads",
        "object_upload_parts",
        "object_links",
        "file_uploads",
        "file_upload_parts",
        "units",
        "unit_holds",
        "unit_blobs",
        "idempotent_answers",
    }
)

_TABLES = text(
    """
    select c.relname::text as name,
        array(select a.attname::text from pg_attribute a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
            order by a.attnum) as columns,
        array(select distinct p.relname::text from pg_constraint f join pg_class p on p.oid = f.confrelid
            where f.conrelid = c.oid and f.contype = 'f' and p.oid <> c.oid) as parents
    from pg_class c
    where c.relkind in ('r', 'p') and not c.relispartition
        and c.relnamespace = 'public'::regnamespace
    order by c.relname
    """
)


async def tables(tx: AsyncConnection) -> dict[str, list[str]]:
    """Return the columns of every table that moves, those first that others refer to."""
    found = {row.name: row for row in await tx.execute(_TABLES)}
    order = TopologicalSorter({name: row.parents for name, row in found.items()}).static_order()
    return {name: found[name].columns for name in order if name in found and name not in STAYS}


async def copy_out(tx: AsyncConnection, table: str, columns: list[str], write: PartWriter) -> None:
    """Write a table's rows as they are in the snapshot of `tx`, in PostgreSQL's text format."""
    connection = await driver(tx)
    names = _quoted(columns)
    order = " order by xid, seq" if table == "journal" else ""
    done = await connection.copy_from_query(f'select {names} from "{table}"{order}', output=write)  # noqa: S608  names from the catalog
    write.rows, write.columns = int(done.split()[-1]), columns


async def copy_in(tx: AsyncConnection, table: str, columns: list[str], source: Any) -> None:
    """Read rows into a table, in the transaction of `tx`; `source` is a path."""
    connection = await driver(tx)
    await connection.copy_to_table(table, source=source, columns=columns)


async def driver(tx: AsyncConnection) -> Any:
    """Return the driver's connection: COPY is not SQLAlchemy's."""
    connection = (await tx.get_raw_connection()).driver_connection
    if connection is None:
        raise ConnectionError("the connection is closed")
    await tx.execute(text("select 1"))  # the transaction has begun
    return connection


def _quoted(columns: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)
