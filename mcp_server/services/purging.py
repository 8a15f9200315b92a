"""Deletes rows of a table that have expired, now and then, in transactions of bounded size."""

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

EVERY_SECONDS = 300.0
BATCH = 500


async def purge(control: AsyncEngine, table: str) -> int:
    """Delete the rows of `table` whose `expires_at` has passed; return how many there were."""
    statement = text(
        f'delete from "{table}" where ctid = any(array('  # noqa: S608  a table's name, not a caller's
        f'select ctid from "{table}" where expires_at <= clock_timestamp() '
        "limit :batch for update skip locked))"
    )
    total, deleted = 0, BATCH
    while deleted == BATCH:
        async with control.begin() as tx:
            deleted = (await tx.execute(statement, {"batch": BATCH})).rowcount
        total += deleted
    return total


@asynccontextmanager
async def purging(
    control: AsyncEngine, table: str, every_seconds: float = EVERY_SECONDS
) -> AsyncGenerator[None]:
    """Purge while the body runs; any number of processes may."""

    async def keep() -> None:
        while True:
            # A pause first, and not the same one everywhere: processes often start together.
            await asyncio.sleep(every_seconds * random.uniform(0.5, 1.5))  # noqa: S311  no secret
            try:
                await purge(control, table)
            except (SQLAlchemyError, OSError) as error:
                logger.warning("%s: what is due is purged later (%s)", table, error)

    keeper = asyncio.create_task(keep(), name=f"purge-{table}")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
