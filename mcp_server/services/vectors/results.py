"""What the vector tools answer with, and how hits and rows become it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import TypedDict

from mcp_server.services.vectors import rows
from mcp_server.storage.vectors import Finish, Hit, Hits, Store
from mcp_server.storage.vectors.ranking import fuse
from mcp_server.timestamps import iso


class VectorAdded(TypedDict):
    store: str
    document: str
    chunks: int


class VectorResult(TypedDict):
    """One passage; `text` stands at characters `start` to `end` (exclusive) of its document.

    `score`: cosine similarity for mode dense, BM25 for text, the sum of 1 / (60 + rank) over the
    rankings for hybrid. Scores of different modes or stores do not compare.
    """

    document: str
    chunk: int
    text: str
    score: float
    metadata: dict[str, Any]
    start: int
    end: int


class VectorResults(TypedDict):
    results: list[VectorResult]


class VectorDeleted(TypedDict):
    deleted: int


class VectorItem(TypedDict):
    document: str
    metadata: dict[str, Any]
    chunks: int
    created_at: str


class VectorPage(TypedDict):
    items: list[VectorItem]
    next_cursor: str | None


class VectorDocument(VectorItem):
    store: str
    text: str


def best_passages(store: Store, mode: str, k: int) -> Finish[list[VectorResult]]:
    """Return what makes the best `k` passages of hits, ranked by a mode: dense, text or hybrid."""

    async def finish(tx: AsyncConnection, hits: Hits) -> list[VectorResult]:
        ranked: Sequence[Hit] = {"dense": hits.dense, "text": hits.text}.get(mode, ())
        if mode == "hybrid":
            ranked = fuse(hits)
        results: list[VectorResult] = []
        for first in range(0, len(ranked), k):
            some = ranked[first : first + k]
            known = await rows.hydrate(tx, store, [hit.id for hit in some])
            # An engine may still hold what the rows no longer know.
            results += [_passage(known[hit.id], hit.score) for hit in some if hit.id in known]
            if len(results) >= k:
                break
        return results[:k]

    return finish


def _passage(row: Row[Any], score: float) -> VectorResult:
    text = row.body.strip()
    start = row.start_at + len(row.body) - len(row.body.lstrip())
    return VectorResult(
        document=row.document,
        chunk=row.chunk,
        text=text,
        score=score,
        metadata=row.metadata,
        start=start,
        end=start + len(text),
    )


def item(row: Row[Any]) -> VectorItem:
    """Return a document's row as a listing shows it."""
    return VectorItem(
        document=row.document,
        metadata=row.metadata,
        chunks=row.chunks,
        created_at=iso(row.created_at),
    )
