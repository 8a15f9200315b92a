"""The rows of uploads in progress: how far each came, and the parts that hold what was acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict
from mcp_server.services.objects.addresses import Address
from mcp_server.services.objects.manifest import discard
from mcp_server.services.objects.shapes import ObjectInfo
from mcp_server.storage.objects import Blob
from mcp_server.storage.sql.object_tables import object_links, object_upload_parts, object_uploads

_BATCH = 100

# An upload of which nothing came for so long is given up.
_EXPIRES = text("now() + interval '24 hours'")
_EXPIRED = text(
    """
    select id from object_uploads where expires_at < now()
    order by expires_at limit :batch for update skip locked
    """
)


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload; `received` of `length` bytes are stored, `completed` is the object once it exists."""

    id: str
    at: Address
    received: int
    length: int
    header: str
    expires_at: datetime
    completed: ObjectInfo | None

    @classmethod
    def of_row(cls, row: Row[Any]) -> Upload:
        at = Address(row.tenant, row.bucket, row.key)
        expires = row.expires_at.astimezone(UTC)
        return cls(row.id, at, row.received, row.length, row.header, expires, row.completed)

    def advanced(self, row: Row[Any, Any], completed: ObjectInfo | None = None) -> Upload:
        return replace(self, received=row.received, expires_at=row.expires_at, completed=completed)


async def find(control: AsyncEngine, principal: Principal, upload: str) -> Row[Any] | None:
    """Return a living upload of the principal."""
    query = select(object_uploads).where(
        object_uploads.c.id == upload,
        object_uploads.c.tenant == principal.tenant,
        object_uploads.c.subject == principal.subject,
        object_uploads.c.expires_at > func.now(),
    )
    async with control.connect() as connection:
        return (await connection.execute(query)).first()


async def count_open(tx: AsyncConnection, tenant: str) -> int:
    """Return how many uploads of a tenant are in progress."""
    open_ones = object_uploads.c.completed.is_(None) & (object_uploads.c.tenant == tenant)
    return await tx.scalar(select(func.count()).where(open_ones)) or 0


async def make(tx: AsyncConnection, values: dict[str, Any]) -> Row[Any]:
    query = insert(object_uploads).values(expires_at=_EXPIRES, **values).returning(object_uploads)
    return (await tx.execute(query)).one()


async def advance(
    tx: AsyncConnection, upload: Upload, received: int, completed: ObjectInfo | None = None
) -> Row[Any, Any]:
    """Move an upload on from where the caller saw it.

    Raises:
        Conflict: another request moved it, or it ended.
    """
    here = (object_uploads.c.id == upload.id) & (object_uploads.c.received == upload.received)
    change = (
        update(object_uploads)
        .where(here, object_uploads.c.completed.is_(None))
        .values(received=received, completed=completed, expires_at=_EXPIRES)
        .returning(object_uploads.c.received, object_uploads.c.expires_at)
    )
    row = (await tx.execute(change)).first()
    if row is None:
        raise Conflict("another request went on with this upload, or ended it; ask for its offset")
    return row


async def add_parts(tx: AsyncConnection, upload: Upload, blobs: Sequence[Blob]) -> None:
    start = upload.received
    for blob in blobs:
        part = {"upload": upload.id, "start": start, "size": blob.size, "blob": blob.key}
        await tx.execute(insert(object_upload_parts).values(part))
        start += blob.size


async def parts(control: AsyncEngine, upload: str) -> Sequence[Row[Any, Any]]:
    """Return `(blob, size)` of what is stored, in order."""
    table = object_upload_parts
    query = select(table.c.blob, table.c.size).where(table.c.upload == upload)
    async with control.connect() as connection:
        return (await connection.execute(query.order_by(table.c.start))).all()


async def drop_parts(tx: AsyncConnection, uploads: Sequence[str]) -> None:
    """Give up what is stored of uploads."""
    gone = delete(object_upload_parts).where(object_upload_parts.c.upload.in_(uploads))
    await discard(tx, (await tx.scalars(gone.returning(object_upload_parts.c.blob))).all())


async def end(tx: AsyncConnection, uploads: Sequence[str]) -> None:
    """Forget uploads with what is stored of them."""
    # The row first: an append holds it while it adds a part.
    await tx.execute(
        select(object_uploads.c.id).where(object_uploads.c.id.in_(uploads)).with_for_update()
    )
    await drop_parts(tx, uploads)
    await tx.execute(delete(object_uploads).where(object_uploads.c.id.in_(uploads)))


async def purge(control: AsyncEngine) -> None:
    """Forget uploads and links that are past their time."""
    while True:
        async with control.begin() as tx:
            expired = (await tx.scalars(_EXPIRED, {"batch": _BATCH})).all()
            if expired:
                await end(tx, expired)
        if len(expired) < _BATCH:
            break
    # An upload by a link that began in time may end after it: links stay a day longer.
    past = object_links.c.expires_at < func.now() - text("interval '1 day'")
    async with control.begin() as tx:
        await tx.execute(delete(object_links).where(past))
