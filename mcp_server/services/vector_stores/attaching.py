"""The rows of files that are given to a store: made with the run that reads them, and settled by it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import ARRAY, Text, and_, any_, bindparam, case, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.services.vector_stores.file_rows import chunking_of
from mcp_server.services.vector_stores.records import Attached, GivenFile
from mcp_server.storage.sql.schema import vector_stores
from mcp_server.storage.sql.vector_store_tables import vector_file_batches as batches
from mcp_server.storage.sql.vector_store_tables import vector_store_files as files
from mcp_server.storage.vectors import Store

_SHOWN = 1000


async def attach(
    tx: AsyncConnection,
    store: Store,
    given: Sequence[GivenFile],
    run: str,
    batch: str | None = None,
) -> None:
    """Make a row of each file, in the place of the one it has; `tx` holds the store.

    What is being read of them at this moment will find that it is not wanted any more.
    """
    # One at a time, so that two calls with the same files never wait for each other.
    one = select(vector_stores.c.id).where(vector_stores.c.id == store.id)
    await tx.execute(one.with_for_update(key_share=True))
    await leave(tx, store, [each.file for each in given])
    if batch is not None:
        made = {"id": batch, "tenant": store.tenant, "store": store.id, "run": run}
        await tx.execute(insert(batches).values(**made))
    values = [
        {
            "id": secrets.token_hex(12),
            "tenant": store.tenant,
            "store": store.id,
            "file": each.file,
            "batch": batch,
            "run": run,
            "attributes": each.attributes,
            "chunking": None if each.chunking is None else asdict(each.chunking),
        }
        for each in given
    ]
    await tx.execute(insert(files), values)


async def leave(tx: AsyncConnection, store: Store, names: Sequence[str]) -> int:
    """Take files out of a store, as far as their rows go; return how many there were."""
    gone = bindparam("gone", list(names), type_=ARRAY(Text))
    there = and_(files.c.store == store.id, files.c.present, files.c.file == any_(gone))
    locked = select(files.c.id).where(there).order_by(files.c.file).with_for_update()
    ids = list(await tx.scalars(locked))
    if not ids:
        return 0
    found = files.c.id == any_(bindparam("ids", ids, type_=ARRAY(Text)))
    ended = case((files.c.status == "in_progress", "cancelled"), else_=files.c.status)
    alone = files.c.batch.is_(None)
    await tx.execute(update(files).where(found, ~alone).values(present=False, status=ended))
    await tx.execute(delete(files).where(found, alone))
    return len(ids)


async def waiting(tx: AsyncConnection, run: str) -> list[Attached]:
    """Return the files that a run has still to read, in the order of their names."""
    query = (
        select(files, vector_stores.c.name)
        .join(vector_stores, vector_stores.c.id == files.c.store)
        .where(files.c.run == run, _wanted)
        .order_by(files.c.file)
    )
    return [
        Attached(row.id, row.name, row.file, row.attributes, chunking_of(row.chunking))
        for row in await tx.execute(query)
    ]


async def hold(tx: AsyncConnection, row: Attached) -> Attached | None:
    """Lock the row of a file that is still to be read until `tx` ends; None if it is not any more."""
    query = select(files.c.attributes).where(files.c.id == row.id, _wanted).with_for_update()
    found = (await tx.execute(query)).first()
    return None if found is None else replace(row, attributes=found.attributes)


async def settle(
    tx: AsyncConnection, row: str, status: str, error: tuple[str, str] | None = None
) -> None:
    """Say what became of a file that was to be read."""
    code, message = error or (None, None)
    values = {
        "status": status,
        "error_code": code,
        "error_message": message and message.replace("\0", "")[:_SHOWN],
    }
    await tx.execute(update(files).where(files.c.id == row, _wanted).values(**values))


async def cancel(tx: AsyncConnection, batch: str) -> None:
    """End the files of a batch that are still to be read."""
    ended = update(files).where(files.c.batch == batch, files.c.status == "in_progress")
    await tx.execute(ended.values(status="cancelled"))
    await tx.execute(update(batches).where(batches.c.id == batch).values(cancelled=True))


async def put_attributes(
    tx: AsyncConnection, store: Store, file: str, attributes: dict[str, Any]
) -> None:
    """Change the attributes that a file will have when it is read."""
    of_it = and_(files.c.store == store.id, files.c.file == file, files.c.present)
    await tx.execute(update(files).where(of_it).values(attributes=attributes))


_wanted = and_(files.c.present, files.c.status == "in_progress")
