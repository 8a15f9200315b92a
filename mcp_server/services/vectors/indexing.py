"""Embeds documents and puts them into stores: rows and engine entries in one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import Conflict
from mcp_server.ingest.embed import Embedder
from mcp_server.operation import Operation
from mcp_server.services.vectors import rows, stores, versions
from mcp_server.services.vectors.content import Document, Piece
from mcp_server.storage.vectors import Batch, Entry, Store, VectorEngine

EMBED_BATCH = 32

Progress = Callable[[float, float | None, str | None], Awaitable[None]]
Vectors = Sequence[Sequence[float]]


class Indexer:
    """What drafts and searches have in common; no connection is held while a model embeds."""

    def __init__(
        self, control: AsyncEngine, engine: VectorEngine, embedder: Embedder, *, keeps: bool
    ) -> None:
        self.control = control
        self.engine = engine
        self.model = embedder
        self._keeps = keeps

    async def embed_query(self, store: Store, query: str) -> Sequence[float]:
        """Return the vector to look for in a store.

        Raises:
            Conflict: the store holds another model's vectors.
        """
        [vector] = await self.model.embed([query])
        self.require_same(store, vector)
        return vector

    async def embed(
        self, known: Store | None, pieces: Sequence[Piece], progress: Progress | None
    ) -> Vectors:
        """Return a vector for each piece, to go into a store if it exists.

        Raises:
            Conflict: the store holds another model's vectors.
        """
        bodies = [piece.embedded for piece in pieces]
        vectors: list[Sequence[float]] = []
        for first in range(0, len(bodies), EMBED_BATCH):
            if progress is not None and first:
                await progress(first, len(bodies), "embedding")
            vectors += await self.model.embed(bodies[first : first + EMBED_BATCH])
            if known is not None and not first:  # rather than after minutes of embedding
                self.require_same(known, vectors[0])
        return vectors

    async def find(self, tenant: str, name: str) -> Store | None:
        """Return a store that this engine holds, or None if there is none of that name."""
        async with self.control.connect() as tx:
            found = await stores.find_store(tx, tenant, name)
        if found is not None:
            stores.require_living(found)
            stores.require_engine(found, self.engine.name)
        return found

    async def draw(
        self, op: Operation, name: str, new: Document, vectors: Vectors, model: str
    ) -> Batch:
        """Return the entries of a document with ids of their own; its store is made if it is not there."""
        async with self.control.begin() as tx:
            await op.hold(tx)
            ids = await rows.chunk_ids(tx, len(vectors))
            tenant, dimensions = op.principal.tenant, len(vectors[0])
            store = await stores.make_store(tx, tenant, name, model, dimensions, self.engine.name)
        stores.require_engine(store, self.engine.name)
        require_model(store, model, dimensions)
        entries = [
            Entry(key, piece.tokens, vector)
            for key, piece, vector in zip(ids, new.pieces, vectors, strict=True)
        ]
        return Batch(store, new.name, new.metadata, entries)

    async def put(
        self, tx: AsyncConnection, op: Operation, batch: Batch, new: Document, expected: int | None
    ) -> None:
        """Write a document with its prepared entries in the place of the one of its name; journal it.

        Raises:
            Conflict: the version there is not `expected` (0: none must be there; None: any).
        """
        store = batch.store
        await stores.hold_store(tx, store)
        version, before = await rows.make_document(tx, store, new)
        require_version(new.name, before, expected)
        if before:
            await self.keep(tx, store, [new.name])
            version = await rows.replace_document(tx, store, new)
            await self.engine.retract(tx, store, [new.name])
        await rows.put_chunks(tx, store, new, [entry.id for entry in batch.entries])
        await self.engine.publish(tx, batch)
        await op.journal(
            tx, uri=uri_of(store, new.name), version=version, prev_version=before or None
        )

    async def remove(
        self, tx: AsyncConnection, op: Operation, store: Store, gone: Sequence[tuple[str, int]]
    ) -> None:
        """Delete documents, given by name and version, that `tx` holds the locks of; journal each."""
        names = [name for name, _ in gone]
        await self.keep(tx, store, names)
        await rows.delete_documents(tx, store, names)
        await self.engine.retract(tx, store, names)
        for name, version in gone:
            await op.journal(tx, uri=uri_of(store, name), verb="delete", prev_version=version)

    async def keep(self, tx: AsyncConnection, store: Store, names: Sequence[str]) -> None:
        """Keep documents as they are for undo, unless nothing is to be kept."""
        if self._keeps and names:
            await versions.keep(tx, store, names)

    def require_same(self, store: Store, vector: Sequence[float]) -> None:
        """Refuse a store that was filled with another model; known only once the model answered."""
        require_model(store, self.model.model, len(vector))


def uri_of(store: Store, document: str) -> str:
    return f"vector://{store.name}/{document}"


def require_version(name: str, version: int, expected: int | None) -> None:
    """Refuse a document that is not as it was.

    Raises:
        Conflict: its version, 0 if it is not there, is not the expected one; None expects nothing.
    """
    if expected is not None and version != expected:
        raise Conflict(
            f"document {name!r} has changed since, version is {version}", param="document"
        )


def require_model(store: Store, model: str, dimensions: int) -> None:
    """Refuse to mix vectors of two models.

    Raises:
        Conflict: the store holds another model's.
    """
    if store.embedding_model != model:
        raise Conflict(
            f"vector store {store.name!r} holds vectors of {store.embedding_model!r}, this "
            f"server embeds with {model!r}, and the two do not compare; set "
            "ISTHMUS_EMBEDDINGS_MODEL back, use mode text, or fill a new store",
            param="store",
        )
    if store.dimensions != dimensions:
        raise Conflict(
            f"vector store {store.name!r} holds vectors of {store.dimensions} dimensions, the "
            f"embedding model now gives {dimensions}; use mode text, or fill a new store",
            param="store",
        )
