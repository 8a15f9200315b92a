"""Embeds documents and writes them: rows and engine entries in one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.errors import Conflict
from mcp_server.ingest.embed import Embedder
from mcp_server.operation import Operation
from mcp_server.services.vectors import rows
from mcp_server.services.vectors.results import VectorAdded
from mcp_server.services.vectors.rows import Draft
from mcp_server.storage.vectors import Entry, Store, VectorEngine

EMBED_BATCH = 32

Progress = Callable[[float, float | None, str | None], Awaitable[None]]


class Indexer:
    """Puts documents into stores; no connection is held while a model embeds."""

    def __init__(self, control: AsyncEngine, engine: VectorEngine, embedder: Embedder) -> None:
        self._control = control
        self._engine = engine
        self._embedder = embedder

    async def embed_query(self, store: Store, query: str) -> Sequence[float]:
        """Return the vector to look for in a store.

        Raises:
            Conflict: the store holds another model's vectors.
        """
        [vector] = await self._embedder.embed([query])
        self._require_same(store, vector)
        return vector

    async def add(
        self,
        op: Operation,
        known: Store | None,
        name: str,
        draft: Draft,
        progress: Progress | None = None,
    ) -> VectorAdded:
        """Write a document in the place of the one of its name, and journal it.

        `known` is the store if it exists; else it is made.

        Raises:
            Conflict: the store holds another model's vectors.
        """
        vectors = await self._embed(known, draft, progress)
        async with self._control.begin() as tx:
            await op.hold(tx)
            ids = await rows.chunk_ids(tx, len(vectors))
            store = known or await rows.make_store(
                tx, op.principal.tenant, name, self._embedder.model, len(vectors[0])
            )
        self._require_same(store, vectors[0])
        entries = [
            Entry(key, piece.tokens, vector)
            for key, piece, vector in zip(ids, draft.pieces, vectors, strict=True)
        ]
        await self._engine.prepare(store, draft.name, draft.metadata, entries)
        async with self._control.begin() as tx:
            done = await op.replay(tx)
            if done is not None:
                return done
            version, before = await rows.put_document(tx, store, draft)
            await self._engine.retract(tx, store, [draft.name])
            await rows.put_chunks(tx, store, draft, ids)
            await self._engine.publish(tx, store, draft.name, draft.metadata, entries)
            await op.journal(tx, version=version, prev_version=before)
            added = VectorAdded(store=name, document=draft.name, chunks=len(ids))
            return await op.remember(tx, added)

    async def keep(self, op: Operation, name: str, document: str, chunks: int) -> VectorAdded:
        """Answer for a document that is there already, as wanted; with a key, once and for all."""
        added = VectorAdded(store=name, document=document, chunks=chunks)
        if op.key is None:
            return added
        async with self._control.begin() as tx:
            return await op.replay(tx) or await op.remember(tx, added)

    async def _embed(
        self, known: Store | None, draft: Draft, progress: Progress | None
    ) -> list[Sequence[float]]:
        """Return a vector per chunk."""
        # White space says nothing, and a model's limit counts it.
        bodies = [" ".join(piece.body.split()) for piece in draft.pieces]
        vectors: list[Sequence[float]] = []
        for first in range(0, len(bodies), EMBED_BATCH):
            if progress is not None and first:
                await progress(first, len(bodies), "embedding")
            vectors += await self._embedder.embed(bodies[first : first + EMBED_BATCH])
            if known is not None and not first:  # rather than after minutes of embedding
                self._require_same(known, vectors[0])
        return vectors

    def _require_same(self, store: Store, vector: Sequence[float]) -> None:
        """Refuse a store that was filled with another model; known only once the model answered."""
        if store.embedding_model != self._embedder.model:
            raise Conflict(
                f"vector store {store.name!r} holds vectors of {store.embedding_model!r}, this "
                f"server embeds with {self._embedder.model!r}, and the two do not compare; set "
                "ISTHMUS_EMBEDDINGS_MODEL back, use mode text, or fill a new store",
                param="store",
            )
        if store.dimensions != len(vector):
            raise Conflict(
                f"vector store {store.name!r} holds vectors of {store.dimensions} dimensions, the "
                f"embedding model now gives {len(vector)}; use mode text, or fill a new store",
                param="store",
            )
