"""The keeper of keys: removes what has expired and what undo no longer needs, in the background of every process."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

logger = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
BATCH = 1000
DAY_SECONDS = 24 * 3600.0

# Several processes keep at once: each takes rows that no other one holds. What is locked by a write
# is left to the next round.
_PURGE = """
    delete from {table} where ctid = any(array(
        select ctid from {table} where {due} limit :batch for update skip locked))
    """
# Nobody sees an expired row; removing it changes nothing that anybody can tell. The row of a lease
# stays until whoever began to take it over has surely ended: tokens rise by it.
_EXPIRED = (
    text(_PURGE.format(table="kv", due="expires_at <= clock_timestamp()")),
    text(_PURGE.format(table="kv_leases", due="expires_at < clock_timestamp() - interval '1 day'")),
)
_OLD = text(
    _PURGE.format(table="kv_versions", due="replaced_at < now() - make_interval(secs => :kept)")
)


async def purge(control: AsyncEngine, undo_days: float) -> int:
    """Delete what is due, in transactions of bounded size; return the number of rows."""
    kept = undo_days * DAY_SECONDS
    total = 0
    for statement, given in [*((item, {}) for item in _EXPIRED), (_OLD, {"kept": kept})]:
        deleted = BATCH
        while deleted == BATCH:
            async with control.begin() as tx:
                deleted = (await tx.execute(statement, given | {"batch": BATCH})).rowcount
            total += deleted
    return total


@asynccontextmanager
async def keeping_kv(
    control: AsyncEngine, undo_days: float, every_seconds: float = EVERY_SECONDS
) -> AsyncGenerator[None]:
    """Purge now and then while the context is open; any number of processes may do so at once."""

    async def keep() -> None:
        while True:
            # A pause first, and not the same one everywhere: processes often start together.
            pause = every_seconds * random.uniform(0.5, 1.5)  # noqa: S311  spread, not secret
            await asyncio.sleep(pause)
            try:
                await purge(control, undo_days)
            except (SQLAlchemyError, OSError) as error:
                logger.warning("keys: what is due is purged later (%s)", error)

    keeper = asyncio.create_task(keep(), name="kv-keeper")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
