"""The rows of files that are uploaded in parts: what each will be, and the parts that came of it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.services.objects.manifest import discard
from mcp_server.storage.objects import Blob
from mcp_server.storage.sql.upload_tables import file_upload_parts, file_uploads

_BATCH = 100
_EXPIRES = text("now() + interval '1 hour'")
_EXPIRED = (file_uploads.c.expires_at <= func.now()).label("expired")
# An hour longer than it may be used: a joining that began in time still finds its parts.
_PAST = text(
    """
    select id from file_uploads where expires_at < now() - interval '1 hour'
    order by expires_at limit :batch for update skip locked
    """
)


async def make(tx: AsyncConnection, values: dict[str, Any]) -> Row[Any]:
    named = {"id": f"upload_{secrets.token_hex(16)}", "status": "pending", "expires_at": _EXPIRES}
    added = insert(file_uploads).values(**named, **values).returning(file_uploads, _EXPIRED)
    return (await tx.execute(added)).one()


async def count_pending(tx: AsyncConnection, tenant: str) -> int:
    """Return how many uploads of a tenant are in progress."""
    mine = (file_uploads.c.tenant == tenant) & (file_uploads.c.status == "pending")
    living = file_uploads.c.expires_at > func.now()
    return await tx.scalar(select(func.count()).where(mine, living)) or 0


async def find(control: AsyncEngine, tenant: str, upload: str) -> Row[Any] | None:
    """Return the row with `expired`."""
    async with control.connect() as connection:
        return (await connection.execute(_one(tenant, upload))).first()


async def lock(tx: AsyncConnection, tenant: str, upload: str) -> Row[Any] | None:
    """Return the row with `expired`, locked until `tx` ends."""
    return (await tx.execute(_one(tenant, upload).with_for_update())).first()


async def settle(
    tx: AsyncConnection, upload: str, status: str, part_ids: Sequence[str] | None, kept: str | None
) -> None:
    """End an upload and give up its parts, but for the blob that the file is now."""
    change = {"status": status, "part_ids": None if part_ids is None else list(part_ids)}
    await tx.execute(update(file_uploads).where(file_uploads.c.id == upload).values(change))
    await _drop_parts(tx, [upload], kept)


async def add_part(tx: AsyncConnection, upload: str, blob: Blob) -> Row[Any]:
    values = {"size": blob.size, "sha256": blob.sha256, "md5": blob.md5, "blob": blob.key}
    named = {"id": f"part_{secrets.token_hex(16)}", "upload": upload}
    query = insert(file_upload_parts).values(**named, **values).returning(file_upload_parts)
    return (await tx.execute(query)).one()


async def stored(tx: AsyncConnection, upload: str) -> tuple[int, int]:
    """Return how many parts of an upload there are, and their bytes."""
    table = file_upload_parts
    total = select(func.count(), func.coalesce(func.sum(table.c.size), 0))
    row = (await tx.execute(total.where(table.c.upload == upload))).one()
    return row[0], int(row[1])


async def parts(control: AsyncEngine, upload: str) -> dict[str, Row[Any]]:
    """Return the parts of an upload by their ids."""
    query = select(file_upload_parts).where(file_upload_parts.c.upload == upload)
    async with control.connect() as connection:
        return {row.id: row for row in await connection.execute(query)}


async def purge(control: AsyncEngine) -> int:
    """Forget uploads that are past their time, with what is stored of them; return how many."""
    gone = 0
    while True:
        async with control.begin() as tx:
            past = (await tx.scalars(_PAST, {"batch": _BATCH})).all()
            if past:
                await _drop_parts(tx, past, None)
                await tx.execute(delete(file_uploads).where(file_uploads.c.id.in_(past)))
        gone += len(past)
        if len(past) < _BATCH:
            return gone


async def _drop_parts(tx: AsyncConnection, uploads: Sequence[str], kept: str | None) -> None:
    doomed = delete(file_upload_parts).where(file_upload_parts.c.upload.in_(uploads))
    blobs = (await tx.scalars(doomed.returning(file_upload_parts.c.blob))).all()
    await discard(tx, [blob for blob in blobs if blob != kept])


def _one(tenant: str, upload: str) -> Any:
    here = (file_uploads.c.id == upload) & (file_uploads.c.tenant == tenant)
    return select(file_uploads, _EXPIRED).where(here)
