"""Objects that live for a time only: nobody sees them from the moment on that they expire, and later they are deleted."""

from __future__ import annotations

from sqlalchemy import func, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import journal
from mcp_server.services.objects.addresses import Address
from mcp_server.services.objects.manifest import discard
from mcp_server.storage.sql.schema import objects

_BATCH = 500
_PURGE = text(
    """
    delete from objects where id in (
        select id from objects where expires_at <= now()
        order by expires_at limit :batch for update skip locked
    ) returning tenant, bucket, key, version, blob
    """
)


async def expire(tx: AsyncConnection, at: Address, seconds: int | None) -> None:
    """Let an object live for so many seconds from its making on; for ever if None."""
    if seconds is not None:
        ends = objects.c.created_at + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        await tx.execute(update(objects).where(at.row()).values(expires_at=ends))


async def purge_expired(control: AsyncEngine) -> int:
    """Delete the objects whose time is over; return how many."""
    purged = 0
    while True:
        async with control.begin() as tx:
            gone = (await tx.execute(_PURGE, {"batch": _BATCH})).all()
            await discard(tx, [row.blob for row in gone])
            for row in gone:
                await _journal(tx, Address(row.tenant, row.bucket, row.key), row.version)
        purged += len(gone)
        if len(gone) < _BATCH:
            return purged


async def _journal(tx: AsyncConnection, at: Address, version: int) -> None:
    await journal.append(
        tx,
        tenant=at.tenant,
        subject="",
        verb="delete",
        uri=at.uri,
        version=None,
        prev_version=version,
        run=None,
        step=None,
        labels=[],
    )
