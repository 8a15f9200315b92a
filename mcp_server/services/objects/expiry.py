"""Objects that live for a time only: nobody sees them from the moment on that they expire, and later they are deleted."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from sqlalchemy import func, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import journal
from mcp_server.errors import AppError
from mcp_server.services.objects.addresses import Address
from mcp_server.services.objects.manifest import discard
from mcp_server.storage.sql.schema import objects

logger = logging.getLogger(__name__)

Leave = Callable[[Address], Awaitable[None]]
"""Takes what other services read of an object out of there, before the object goes; may be repeated."""

_BATCH = 500
_DUE = text(
    """
    select id, tenant, bucket, key from objects
    where expires_at <= now() and id <> all(cast(:kept as text[]))
    order by expires_at limit :batch
    """
)
_PURGE = text(
    """
    delete from objects where id in (
        select id from objects where expires_at <= now() and id = any(cast(:ids as text[]))
        for update skip locked
    ) returning tenant, bucket, key, version, blob
    """
)


async def expire(tx: AsyncConnection, at: Address, seconds: int | None) -> None:
    """Let an object live for so many seconds from its making on; for ever if None."""
    if seconds is not None:
        ends = objects.c.created_at + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        await tx.execute(update(objects).where(at.row()).values(expires_at=ends))


async def nowhere(at: Address) -> None:
    """Leave nothing: nobody read it."""
    del at


async def purge_expired(control: AsyncEngine, leave: Leave = nowhere) -> int:
    """Delete the objects whose time is over, and what was read of them; return how many objects."""
    purged = 0
    kept: list[str] = []  # until the next time: what was read of them cannot be taken away now
    while True:
        async with control.connect() as tx:
            due = (await tx.execute(_DUE, {"batch": _BATCH, "kept": kept})).all()
        ready: list[str] = []
        for row in due:
            left = await _left(leave, Address(row.tenant, row.bucket, row.key))
            (ready if left else kept).append(row.id)
        async with control.begin() as tx:
            gone = (await tx.execute(_PURGE, {"ids": ready})).all()
            await discard(tx, [row.blob for row in gone])
            for row in gone:
                await _journal(tx, Address(row.tenant, row.bucket, row.key), row.version)
        purged += len(gone)
        if len(due) < _BATCH:
            return purged


async def _left(leave: Leave, at: Address) -> bool:
    try:
        await leave(at)
    except AppError as error:
        logger.warning("%s expired, and is deleted later: %s", at.uri, error)
        return False
    return True


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
