"""The rows of entries: their tokens always, their vectors where no engine of its own holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import ARRAY, Text, bindparam, delete, func, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.storage.sql.schema import chunk_vectors
from mcp_server.storage.vectors import Batch, Store
from mcp_server.storage.vectors.lexemes import lexeme_of, tsvector
from mcp_server.storage.vectors.words import located, within

INSERT_BATCH = 100

_INSERT = text(
    """
    insert into chunk_vectors
        (shard, id, store, document, tenant, tokens, length, generation, embedding)
    values (:shard, :id, :store, :document, :tenant, cast(cast(:tokens as text) as tsvector),
        :length, :generation, cast(cast(:embedding as text) as vector))
    """
)


def vector_text(values: Sequence[float]) -> str:
    """Return a vector as PostgreSQL reads it."""
    return orjson.dumps(list(values)).decode()


async def put_entries(tx: AsyncConnection, batch: Batch, *, vectors: bool) -> None:
    """Write the rows of a batch, with or without their vectors."""
    store = await located(tx, batch.store)
    at = {
        "shard": store.shard,
        "store": store.id,
        "tenant": store.tenant,
        "document": batch.document,
        "generation": batch.generation,
    }
    # In batches, because writing thousands of vectors as text would block the event loop.
    for first in range(0, len(batch.entries), INSERT_BATCH):
        rows: list[dict[str, Any]] = [
            {
                **at,
                "id": entry.id,
                "tokens": tsvector([lexeme_of(store, token) for token in entry.tokens]),
                "length": len(entry.tokens),
                "embedding": vector_text(entry.vector) if vectors else None,
            }
            for entry in batch.entries[first : first + INSERT_BATCH]
        ]
        await tx.execute(_INSERT, rows)


async def drop_entries(
    tx: AsyncConnection, store: Store, documents: Sequence[str] | None
) -> set[int]:
    """Delete the rows of documents, or all of a store; return the generations that they were of."""
    gone = delete(chunk_vectors).where(within(await located(tx, store)))
    if documents is not None:
        named = bindparam("gone", list(documents), type_=ARRAY(Text))
        gone = gone.where(chunk_vectors.c.document == func.any(named))
    rows = await tx.execute(gone.returning(chunk_vectors.c.generation))
    return {row.generation for row in rows if row.generation is not None}
