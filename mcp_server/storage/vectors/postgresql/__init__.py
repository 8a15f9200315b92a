"""Vectors in the control database with pgvector, in the same transaction as their rows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import InvalidInput
from mcp_server.storage.sql.control import answers
from mcp_server.storage.vectors import DEFAULT_ENGINE, Batch, Finish, Hits, Query, Store
from mcp_server.storage.vectors.entries import drop_entries, put_entries
from mcp_server.storage.vectors.postgresql.dense import nearest
from mcp_server.storage.vectors.postgresql.shards import Shards, keeping
from mcp_server.storage.vectors.words import located, matching

T = TypeVar("T")

# The most that pgvector's type `vector` holds.
MAX_DIMENSIONS = 16_000

# A generic plan would parse the query's vector again for each row: after five searches on one
# connection a scan of 20,000 took 1.3 s instead of 30 ms. Compiling takes longer than these queries.
_PLANNING = text(
    "select set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
)


@asynccontextmanager
async def open_engine(url: str | None, control: AsyncEngine) -> AsyncGenerator[PostgresVectors]:
    """Yield the engine; `url` plays no part, since the vectors live in the control database."""
    del url
    async with keeping(Shards(control)):
        yield PostgresVectors(control)


class PostgresVectors:
    """Cosine over a store's vectors, exact or by an index of its own; BM25 over tokens."""

    name = DEFAULT_ENGINE

    def __init__(self, control: AsyncEngine) -> None:
        self._control = control
        # One snapshot for both rankings and their rows: a document replaced in between is seen
        # either as it was or as it is.
        self._snapshots = control.execution_options(isolation_level="REPEATABLE READ")

    async def prepare(self, batch: Batch) -> None:
        for entry in batch.entries:
            if len(entry.vector) > MAX_DIMENSIONS:
                raise InvalidInput(
                    f"the embedding model gives {len(entry.vector)} dimensions, more than the "
                    f"{MAX_DIMENSIONS} that PostgreSQL holds; choose another model"
                )

    async def publish(self, tx: AsyncConnection, batch: Batch) -> None:
        await put_entries(tx, batch, vectors=True)

    async def discard(self, batch: Batch) -> None:
        """Nothing was made: the rows are of the transaction that publishes."""

    async def retract(
        self, tx: AsyncConnection, store: Store, documents: Sequence[str] | None
    ) -> None:
        await drop_entries(tx, store, documents)

    async def search(self, store: Store, query: Query, finish: Finish[T]) -> T:
        async with self._snapshots.connect() as tx:
            await tx.execute(_PLANNING)
            store = await located(tx, store)
            hits = Hits()
            if query.tokens:
                hits = await matching(tx, store, query, query.tokens)
            if query.vector is not None:
                hits = replace(hits, dense=await nearest(tx, store, query, query.vector))
            return await finish(tx, hits)

    async def answers(self) -> None:
        await answers(self._control)
