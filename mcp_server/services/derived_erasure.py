"""A tenant's part of the engines beside the control database, for its erasure."""

from __future__ import annotations

import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.placement import Placements
from mcp_server.storage.cache import Cache
from mcp_server.storage.sql import SqlEngine
from mcp_server.storage.vectors import Store, VectorEngine

# An engine of its own deletes in the background, some hundreds of documents at a time.
COLLECTING_SECONDS = 120.0
_AGAIN_SECONDS = 0.5

_STORES = text(
    "select id, tenant, name, embedding_model, dimensions, engine, shard from vector_stores"
    " where tenant = :tenant"
)
_DUE = text("update vector_garbage set due_at = clock_timestamp() where tenant = :tenant")
_WAITING = text("select count(*) from vector_garbage where tenant = :tenant")


class SqlErasure:
    """See `erasure.Derived`."""

    name = "sql"

    def __init__(self, engine: SqlEngine) -> None:
        self._engine = engine
        self._placement = Placements(engine.url)

    async def erase(self, tenant: str) -> None:
        await self._engine.erase(self._placement(tenant).schema)

    async def left(self, tenant: str) -> dict[str, int]:
        return await self._engine.left(self._placement(tenant).schema)


class VectorErasure:
    """See `erasure.Derived`. What is still to be collected is listed in the control database."""

    name = "vectors"

    def __init__(self, control: AsyncEngine, engine: VectorEngine) -> None:
        self._control, self._engine = control, engine

    async def erase(self, tenant: str) -> None:
        async with self._control.connect() as tx:
            rows = (await tx.execute(_STORES, {"tenant": tenant})).mappings().all()
        for row in rows:
            async with self._control.begin() as tx:
                await self._engine.retract(tx, Store(**row), None)
        async with self._control.begin() as tx:
            await tx.execute(_DUE, {"tenant": tenant})
        turns = int(COLLECTING_SECONDS / _AGAIN_SECONDS)
        for _ in range(turns):
            if not (await self.left(tenant))["waiting for collection"]:
                return
            await asyncio.sleep(_AGAIN_SECONDS)

    async def left(self, tenant: str) -> dict[str, int]:
        async with self._control.connect() as tx:
            waiting = await tx.scalar(_WAITING, {"tenant": tenant}) or 0
        return {"waiting for collection": waiting}


class CacheErasure:
    """See `erasure.Derived`. What a cache holds cannot be counted, and may be lost at any time."""

    name = "cache"

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def erase(self, tenant: str) -> None:
        await self._cache.erase(tenant)

    async def left(self, tenant: str) -> dict[str, int]:
        del tenant
        return {}
