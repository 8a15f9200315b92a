"""The arithmetic of ranking, shared by all engines: BM25's weights and reciprocal rank fusion."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcp_server.storage.vectors import Hit

# Robertson and Zaragoza, The Probabilistic Relevance Framework (2009): the usual values.
K1 = 1.2
B = 0.75
# Cormack, Clarke and Buettcher, Reciprocal Rank Fusion (2009).
RRF_K = 60


def idf(chunks: int, with_term: int) -> float:
    """Return a term's weight in a store of `chunks`, `with_term` of which hold it; never negative."""
    return math.log1p((chunks - with_term + 0.5) / (with_term + 0.5))


def fuse(*rankings: Sequence[Hit]) -> list[Hit]:
    """Return the hits of all rankings, best first; a score is the sum of 1 / (60 + rank)."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            scores[hit.id] = scores.get(hit.id, 0.0) + 1 / (RRF_K + rank)
    fused = [Hit(key, score) for key, score in scores.items()]
    return sorted(fused, key=lambda hit: (-hit.score, hit.id))
