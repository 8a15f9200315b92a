"""Vectors whose nearest neighbours are known, and stores of both engines that hold them, of one tenant or of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import filters
from mcp_server.services.vectors import rows, stores
from mcp_server.services.vectors.content import Document, Piece
from mcp_server.storage.vectors import (
    Batch,
    Entry,
    Hits,
    Query,
    Restriction,
    Store,
    VectorEngine,
)

DIMENSIONS = 128
CHUNKS_IN_DOCUMENT = 100
# Shares of a store that filters leave: documents are numbered, `at` is a number of 0-999. Shares of all that
# tenants have are written in the same thousandths.
SHARES = {"100 %": 1000, "50 %": 500, "5 %": 50, "1 %": 10, "0.1 %": 1}
TENANTS = {share: part for share, part in SHARES.items() if part < 1000}
# The rest is of tenants that nobody asks about.
OTHERS = 4
# Scans of any index of vectors on this connection that are not in the statistics yet.
_WALKS = text(
    "select coalesce(sum(pg_stat_get_xact_numscans(oid)), 0) from pg_class"
    r" where relname ~ '^chunk_vectors_\d+_nearest$'"
)


@dataclass(frozen=True, slots=True)
class Cloud:
    """Unit vectors in many overlapping clusters, the same for each seed; row i belongs to document i // 100."""

    vectors: np.ndarray[Any, np.dtype[np.float32]]
    asked: np.ndarray[Any, np.dtype[np.float32]]

    @classmethod
    def of(cls, count: int, asked: int = 100, seed: int = 7, dimensions: int = DIMENSIONS) -> Cloud:
        random = np.random.default_rng(seed)
        centres = random.normal(size=(200, dimensions)).astype(np.float32)
        points = centres[random.integers(0, 200, count + asked)]
        points += 0.8 * random.standard_normal(points.shape, dtype=np.float32)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        return cls(points[:count], points[count:])

    def parts(self) -> dict[str, Cloud]:
        """Return the part of each tenant by name, asked the same questions; the parts have the shares of `TENANTS`."""
        sizes = {share: part * len(self.vectors) // 1000 for share, part in TENANTS.items()}
        left = len(self.vectors) - sum(sizes.values())
        sizes |= {f"other {number}": left // OTHERS for number in range(OTHERS)}
        cut: dict[str, Cloud] = {}
        first = 0
        for name, size in sizes.items():
            cut[name] = Cloud(self.vectors[first : first + size], self.asked)
            first += size
        return cut

    def documents(self) -> int:
        return -(-len(self.vectors) // CHUNKS_IN_DOCUMENT)

    def at(self, document: int) -> int:
        """Return the number that filters go by: each of 0-999 comes about as often."""
        return document * 1000 // self.documents()

    def nearest(self, question: int, below: int, k: int = 10) -> list[int]:
        """Return the rows nearest to a question among documents with `at` below a number, exactly."""
        last = sum(self.at(number) < below for number in range(self.documents()))
        scores = self.vectors[: last * CHUNKS_IN_DOCUMENT] @ self.asked[question]
        return [int(row) for row in np.argsort(-scores, kind="stable")[:k]]


@dataclass(frozen=True, slots=True)
class Filled:
    """A store that holds a cloud; `rows` gives a chunk's row in it."""

    engine: VectorEngine
    store: Store
    cloud: Cloud
    rows: dict[int, int]

    async def search(self, question: int, below: int, depth: int = 10) -> list[int]:
        """Return the rows that the engine finds, best first."""
        hits = await self.engine.search(self.store, self.query(question, below, depth), _as_is)
        return [self.rows[hit.id] for hit in hits.dense][:depth]

    async def recall(self, questions: Sequence[int], below: int, k: int = 10) -> float:
        """Return the share of the exact `k` nearest that the engine finds."""
        found = wanted = 0
        for question in questions:
            exact = set(self.cloud.nearest(question, below, k))
            wanted += len(exact)
            found += len(exact & set((await self.search(question, below, max(50, k)))[:k]))
        return found / wanted

    async def walks(self, below: int) -> bool:
        """Tell whether PostgreSQL walks an index of vectors for such a search, as its statistics say."""

        async def walked(tx: AsyncConnection, hits: Hits) -> bool:
            del hits
            counted = bool(await tx.scalar(_WALKS))
            await tx.execute(text("select pg_stat_force_next_flush()"))
            return counted

        # The first takes along what was counted on this connection before.
        await self.engine.search(self.store, self.query(0, below, 50), walked)
        return await self.engine.search(self.store, self.query(0, below, 50), walked)

    def query(self, question: int, below: int, depth: int) -> Query:
        restriction = Restriction()
        if below < 1000:
            restriction = Restriction(filters.parse({"type": "lt", "key": "at", "value": below}))
        return Query(depth, self.cloud.asked[question].tolist(), None, restriction)


async def fill(
    control: AsyncEngine,
    engine: VectorEngine,
    tenant: str,
    name: str,
    cloud: Cloud,
    model: str = "cloud",
) -> Filled:
    """Write a cloud into a store of its own, a hundred chunks a document, as the service does."""
    dimensions = cloud.vectors.shape[1]
    async with control.begin() as tx:
        store = await stores.make_store(tx, tenant, name, model, dimensions, engine.name)
    known: dict[int, int] = {}
    for number in range(cloud.documents()):
        first = number * CHUNKS_IN_DOCUMENT
        vectors = cloud.vectors[first : first + CHUNKS_IN_DOCUMENT]
        async with control.begin() as tx:
            ids = await rows.chunk_ids(tx, len(vectors))
        pieces = [
            Piece(f"row {first + at} ", at, at + 1, ["row", str(first + at)])
            for at in range(len(ids))
        ]
        metadata = {"at": cloud.at(number)}
        new = Document(f"d{number:05}", "text", metadata, pieces)
        entries = [
            Entry(key, piece.tokens, vector.tolist())
            for key, piece, vector in zip(ids, pieces, vectors, strict=True)
        ]
        batch = Batch(store, new.name, metadata, entries)
        await engine.prepare(batch)
        async with control.begin() as tx:
            await rows.make_document(tx, store, new)
            await rows.put_chunks(tx, store, new, ids)
            await engine.publish(tx, batch)
        known |= {key: first + at for at, key in enumerate(ids)}
    return Filled(engine, store, cloud, known)


async def _as_is(tx: AsyncConnection, hits: Hits) -> Hits:
    del tx
    return hits
