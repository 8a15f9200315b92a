"""Deletes vector stores some days after they have expired, and batches of long ago, while a process serves."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import journal
from mcp_server.errors import AppError
from mcp_server.services.vectors import stores
from mcp_server.storage.sql.schema import STORE_EXPIRES_AT, vector_stores
from mcp_server.storage.vectors import VectorEngine

logger = logging.getLogger(__name__)

# For so long whoever missed it may still give the store a longer life.
GRACE_DAYS = 7
EVERY_SECONDS = 600.0
_BATCH = 100
BATCH_DAYS = 30

_OLD = text(
    """
    select id from vector_file_batches
    where created_at < now() - make_interval(days => cast(:days as int))
    order by created_at limit :limit for update skip locked
    """
)
_GONE = text(
    "delete from vector_store_files where not present and batch = any(cast(:batches as text[]))"
)
_FORGET = text("delete from vector_file_batches where id = any(cast(:batches as text[]))")


async def delete_expired(control: AsyncEngine, engine: VectorEngine) -> int:
    """Delete the stores that expired a week ago; return how many there were."""
    due = STORE_EXPIRES_AT + func.make_interval(0, 0, 0, GRACE_DAYS) <= func.now()
    query = select(vector_stores).where(due, vector_stores.c.engine == engine.name)
    async with control.connect() as tx:
        found = (await tx.execute(query.limit(_BATCH))).all()
    gone = 0
    for row in found:
        async with control.begin() as tx:
            mine = query.where(vector_stores.c.id == row.id)
            store = await stores.find_store(tx, row.tenant, row.id)
            # Whoever has just given it a longer life, or deletes it too, was faster.
            locked = (await tx.execute(mine.with_for_update(skip_locked=True))).first()
            if store is None or locked is None or not await stores.delete_store(tx, store):
                continue
            await engine.retract(tx, store, None)
            await _journal(tx, row.tenant, row.name)
            gone += 1
    return gone


async def forget_batches(control: AsyncEngine) -> int:
    """Delete batches of long ago, with what only they still count; return how many batches there were."""
    async with control.begin() as tx:
        ids = list(await tx.scalars(_OLD, {"days": BATCH_DAYS, "limit": _BATCH}))
        await tx.execute(_GONE, {"batches": ids})
        await tx.execute(_FORGET, {"batches": ids})
    return len(ids)


async def _journal(tx: AsyncConnection, tenant: str, name: str) -> None:
    await journal.append(
        tx,
        tenant=tenant,
        subject="",
        verb="delete",
        uri=f"vector://{name}/",
        version=None,
        prev_version=None,
        run=None,
        step=None,
        labels=[],
    )


@asynccontextmanager
async def keeping_stores(
    control: AsyncEngine, engine: VectorEngine, every_seconds: float = EVERY_SECONDS
) -> AsyncGenerator[None]:
    """Delete now and then what is due while the context is open; any number of processes may."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(every_seconds * random.uniform(0.5, 1.5))  # noqa: S311  no secret
            try:
                await delete_expired(control, engine)
                while await forget_batches(control) == _BATCH:
                    pass
            except (SQLAlchemyError, OSError, AppError) as error:
                logger.warning("vector stores: what has expired is deleted later (%s)", error)

    keeper = asyncio.create_task(keep(), name="vector-store-keeper")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
