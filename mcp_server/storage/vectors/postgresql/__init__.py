"""Vectors in the control database with pgvector, in the same transaction as their rows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import ARRAY, Text, bindparam, delete, func, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import InvalidInput
from mcp_server.storage.sql.control import answers
from mcp_server.storage.sql.schema import chunk_vectors
from mcp_server.storage.vectors import DEFAULT_ENGINE, Batch, Entry, Finish, Hits, Query, Store
from mcp_server.storage.vectors.lexemes import lexeme_of, tsvector
from mcp_server.storage.vectors.postgresql.nearest import nearest, vector_text
from mcp_server.storage.vectors.words import located, matching, within

T = TypeVar("T")

# The most that pgvector's type `vector` holds.
MAX_DIMENSIONS = 16_000
INSERT_BATCH = 100

_INSERT = text(
    """
    insert into chunk_vectors (shard, id, store, document, tenant, tokens, length, embedding) values
    (:shard, :id, :store, :document, :tenant, cast(cast(:tokens as text) as tsvector), :length,
     cast(cast(:embedding as text) as vector))
    """
)
# A generic plan would parse the query's vector again for each row: after five searches on one
# connection a scan of 20,000 took 1.3 s instead of 30 ms. Compiling takes longer than these queries.
_PLANNING = text(
    "select set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
)


@asynccontextmanager
async def open_engine(url: str | None, control: AsyncEngine) -> AsyncGenerator[PostgresVectors]:
    """Yield the engine; `url` plays no part, since the vectors live in the control database."""
    del url
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
        store = await located(tx, batch.store)
        at = {
            "shard": store.shard,
            "store": store.id,
            "tenant": store.tenant,
            "document": batch.document,
        }
        # In batches, because writing thousands of vectors as text would block the event loop.
        for first in range(0, len(batch.entries), INSERT_BATCH):
            some = batch.entries[first : first + INSERT_BATCH]
            await tx.execute(_INSERT, [at | _row(store, entry) for entry in some])

    async def discard(self, batch: Batch) -> None:
        """Nothing was made: the rows are of the transaction that publishes."""

    async def retract(
        self, tx: AsyncConnection, store: Store, documents: Sequence[str] | None
    ) -> None:
        gone = delete(chunk_vectors).where(within(await located(tx, store)))
        if documents is not None:
            named = bindparam("gone", list(documents), type_=ARRAY(Text))
            gone = gone.where(chunk_vectors.c.document == func.any(named))
        await tx.execute(gone)

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


def _row(store: Store, entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "tokens": tsvector([lexeme_of(store, token) for token in entry.tokens]),
        "length": len(entry.tokens),
        "embedding": vector_text(entry.vector),
    }
