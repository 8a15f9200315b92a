"""The vectors of documents, out of the engine that holds them and into the one that will."""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import InvalidInput
from mcp_server.ingest.tokenise import tokenise
from mcp_server.services.moves.archive import Archive, Part
from mcp_server.storage.vectors import Batch, Entry, KeepsFilterFields, Store, VectorEngine

PART = "vectors.jsonl"
_DOCUMENTS = 200

_STORES = text(
    "select id, tenant, name, embedding_model, dimensions, engine, shard from vector_stores"
)
_READ = text(
    """
    select store, document, max(generation) as generation, array_agg(id order by id) as ids,
        array_agg(cast(embedding as real[]) order by id) filter (where embedding is not null) as vectors
    from chunk_vectors
    where (store, document) > (:store, :document)
    group by store, document order by store, document limit :limit
    """
)
_CHUNKS = text(
    "select id, body, start_at, end_at, lead_at from chunks"
    " where store = :store and document = :document order by chunk"
)
_METADATA = text("select metadata from documents where store = :store and document = :document")
_THERE = text(
    "select true from chunk_vectors where store = :store and document = :document limit 1"
)


async def write(archive: Archive, tx: AsyncConnection, engine: VectorEngine) -> tuple[str, Part]:
    """Write a line for each document of the snapshot: its chunks' ids, and their vectors as float32."""
    stores = await _stores(tx)
    async with archive.writing(PART) as part:
        async for row in _documents(tx):
            vectors = row.vectors
            if vectors is None:
                vectors = await _elsewhere(engine, stores[row.store], row)
            line = {
                "store": row.store,
                "document": row.document,
                "ids": list(row.ids),
                "vectors": [_packed(vector) for vector in vectors],
            }
            await part(json.dumps(line).encode() + b"\n")
            part.rows += 1
    return PART, part.part


async def read(archive: Archive, control: AsyncEngine, engine: VectorEngine) -> AsyncGenerator[int]:
    """Put every document's vectors into the engine, a transaction each; yield how many are there.

    The rows of stores, documents and chunks are there already. May be repeated.
    """
    async with control.connect() as tx:
        stores = await _stores(tx)
    done = 0
    with archive.part(PART).open(encoding="utf-8") as lines:
        for line in lines:
            given: dict[str, Any] = json.loads(line)
            at = {"store": given["store"], "document": given["document"]}
            async with control.connect() as tx:
                there = await tx.scalar(_THERE, at)
                chunks = _texts((await tx.execute(_CHUNKS, at)).all())
                metadata = await tx.scalar(_METADATA, at)
            if not there:
                batch = _batch(stores[given["store"]], given, chunks, metadata)
                await engine.prepare(batch)
                async with control.begin() as tx:
                    await engine.publish(tx, batch)
            done += 1
            yield done


async def _stores(tx: AsyncConnection) -> dict[str, Store]:
    return {row.id: Store(**row) for row in (await tx.execute(_STORES)).mappings()}


async def _documents(tx: AsyncConnection) -> AsyncGenerator[Any]:
    at: dict[str, Any] = {"store": "", "document": "", "limit": _DOCUMENTS}
    while rows := (await tx.execute(_READ, at)).all():
        for row in rows:
            yield row
        at |= {"store": rows[-1].store, "document": rows[-1].document}


async def _elsewhere(engine: VectorEngine, store: Store, row: Any) -> list[Sequence[float]]:
    if not isinstance(engine, KeepsFilterFields):
        raise InvalidInput(
            f"the vectors of store {store.name!r} are in {store.engine}, which ISTHMUS_VECTORS_URL does not name"
        )
    found = await engine.vectors(store, row.generation)
    return [found[key] for key in row.ids]


def _texts(chunks: Sequence[Any]) -> dict[int, str]:
    """Return what each chunk is found by: its own text, and what it shares with those before it."""
    whole = "".join(chunk.body for chunk in chunks)
    return {
        chunk.id: whole[chunk.start_at if chunk.lead_at is None else chunk.lead_at : chunk.end_at]
        for chunk in chunks
    }


def _batch(store: Store, given: dict[str, Any], chunks: dict[int, str], metadata: Any) -> Batch:
    entries = [
        Entry(key, tokenise(chunks[key]), _unpacked(vector))
        for key, vector in zip(given["ids"], given["vectors"], strict=True)
    ]
    return Batch(store, given["document"], metadata, entries)


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()


def _unpacked(packed: str) -> Sequence[float]:
    values = array("f")
    values.frombytes(base64.b64decode(packed))
    return values.tolist()
