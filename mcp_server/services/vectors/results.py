"""What the vector tools answer with, and how hits and rows become it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import TypedDict

from mcp_server.services.vectors import rows
from mcp_server.storage.vectors import Finish, Hit, Hits, Store
from mcp_server.storage.vectors.ranking import EVEN, Weights, fuse
from mcp_server.timestamps import iso


class VectorAdded(TypedDict):
    store: str
    document: str
    chunks: int


class VectorResult(TypedDict):
    """One passage; `text` stands at characters `start` to `end` (exclusive) of its document.

    `score`: cosine similarity for mode dense, BM25 for text, the sum of 1 / (60 + rank) over the
    rankings for hybrid, each times its weight. Scores of different modes or stores do not compare.
    What is not known of a document (`page` counts from 1) is left out.
    """

    document: str
    chunk: int
    text: str
    score: float
    metadata: dict[str, Any]
    start: int
    end: int
    page: NotRequired[int]
    heading: NotRequired[str]
    title: NotRequired[str]
    source: NotRequired[str]


class VectorResults(TypedDict):
    results: list[VectorResult]


class VectorDeleted(TypedDict):
    deleted: int


class VectorUpdated(TypedDict):
    updated: int


class VectorStoreDeleted(TypedDict):
    deleted: bool


class VectorItem(TypedDict):
    document: str
    metadata: dict[str, Any]
    chunks: int
    created_at: str
    updated_at: str
    title: NotRequired[str]
    source: NotRequired[str]
    media_type: NotRequired[str]


class VectorPage(TypedDict):
    items: list[VectorItem]
    next_cursor: str | None


class VectorDocument(VectorItem):
    store: str
    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Which hits are shown: the best `k` by a mode that score at least `min_score`, if one is given."""

    mode: str
    k: int
    weights: Weights = EVEN
    min_score: float | None = None

    def ranked(self, hits: Hits) -> Sequence[Hit]:
        """Return the hits that may be shown, best first."""
        match self.mode:
            case "dense":
                ranked: Sequence[Hit] = hits.dense
            case "text":
                ranked = hits.text
            case _:
                ranked = fuse(hits, self.weights)
        least = self.min_score
        return ranked if least is None else [hit for hit in ranked if hit.score >= least]


def best_passages(store: Store, choice: Choice) -> Finish[list[VectorResult]]:
    """Return what makes passages of hits."""

    async def finish(tx: AsyncConnection, hits: Hits) -> list[VectorResult]:
        ranked, k = choice.ranked(hits), choice.k
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
    body = f"{row.before or ''}{row.body}"
    text = body.strip()
    start = row.end_at - len(body.lstrip())
    passage = VectorResult(
        document=row.document,
        chunk=row.chunk,
        text=text,
        score=score,
        metadata=row.metadata,
        start=start,
        end=start + len(text),
    )
    if row.page is not None:
        passage["page"] = row.page
    if row.heading is not None:
        passage["heading"] = row.heading
    if row.title is not None:
        passage["title"] = row.title
    if row.source is not None:
        passage["source"] = row.source
    return passage


def item(row: Row[Any]) -> VectorItem:
    """Return a document's row as a listing shows it."""
    shown = VectorItem(
        document=row.document,
        metadata=row.metadata,
        chunks=row.chunks,
        created_at=iso(row.created_at),
        updated_at=iso(row.updated_at),
    )
    if row.title is not None:
        shown["title"] = row.title
    if row.source is not None:
        shown["source"] = row.source
    if row.media_type is not None:
        shown["media_type"] = row.media_type
    return shown
