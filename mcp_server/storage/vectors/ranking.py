"""The arithmetic of ranking, shared by all engines: BM25's weights and reciprocal rank fusion."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mcp_server.storage.vectors import Hit, Hits

# Robertson and Zaragoza, The Probabilistic Relevance Framework (2009): the usual values.
K1 = 1.2
B = 0.75
# Cormack, Clarke and Buettcher, Reciprocal Rank Fusion (2009).
RRF_K = 60
# What a passage must cover of a query's weight to have a say in the fusion. Ranks alone would let
# one that shares only "how do I" stand beside the best by meaning: recall@5 of English questions
# was 0.85 without it, against 1.0 by meaning alone and 1.0 with it (0.25 to 0.5 are alike).
TELLING = 0.25


def idf(chunks: int, with_term: int) -> float:
    """Return a term's weight in a store of `chunks`, `with_term` of which hold it; never negative."""
    return math.log1p((chunks - with_term + 0.5) / (with_term + 0.5))


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each ranking says in the fusion; 0 silences it."""

    dense: float = 1.0
    text: float = 1.0


EVEN = Weights()


def fuse(hits: Hits, weights: Weights = EVEN) -> list[Hit]:
    """Return the hits of both rankings, best first; a score is the sum of weight / (60 + rank).

    A hit by words that covers too little of the query is left to its rank by meaning.
    """
    telling = [hit for hit in hits.text if hit.score >= TELLING * hits.weight]
    scores: dict[int, float] = {}
    for ranking, weight in ((hits.dense, weights.dense), (telling, weights.text)):
        for rank, hit in enumerate(ranking if weight else (), start=1):
            scores[hit.id] = scores.get(hit.id, 0.0) + weight / (RRF_K + rank)
    fused = [Hit(key, score) for key, score in scores.items()]
    return sorted(fused, key=lambda hit: (-hit.score, hit.id))
