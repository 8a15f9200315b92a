"""Searches of a vector store: what is asked, and the page that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openai_facade.translate.response_search import search_result
from openai_facade.wire.faults import invalid, wrong_type
from openai_facade.wire.fields import as_object, as_string, boolean, integer, number, one_of
from openai_facade.wire.fields import required as required_field
from openai_facade.wire.vector_stores import only

if TYPE_CHECKING:  # a process without data imports none of its engines
    from mcp_server.services.vectors import Mode, VectorResult

DEFAULT_RESULTS, MOST_RESULTS = 10, 50
MOST_QUERIES = 32
RANKERS = ("none", "auto", "default-2024-11-15")
# What is first in both rankings scores twice the one through this: see VectorResult.
BEST_SCORES: dict[str, float] = {"hybrid": 2 / 61, "dense": 1.0}

_FIELDS = ("query", "rewrite_query", "max_num_results", "filters", "ranking_options")


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked of a store; `mode` is what the ranker stands for here."""

    queries: list[str]
    rewrite: bool
    most: int
    filters: dict[str, Any] | None
    mode: Mode
    least_score: float


def checked_search(body: Mapping[str, Any]) -> Search:
    """Read a search.

    Raises:
        InvalidRequest: names what does not fit.
    """
    only(body, _FIELDS)
    most, rewrite, filters = (
        body.get("max_num_results"),
        body.get("rewrite_query"),
        body.get("filters"),
    )
    if most is not None:
        integer(1, MOST_RESULTS)("max_num_results", most)
    if rewrite is not None:
        boolean("rewrite_query", rewrite)
    if filters is not None:
        as_object("filters", filters)
    options = as_object("ranking_options", body.get("ranking_options") or {})
    only(options, ("ranker", "score_threshold"), "ranking_options.")
    ranker, least = options.get("ranker"), options.get("score_threshold")
    if ranker is not None:
        one_of(RANKERS)("ranking_options.ranker", ranker)
    if least is not None:
        number(0, 1)("ranking_options.score_threshold", least)
    return Search(
        queries=_queries(required_field(body, "query")),
        rewrite=bool(rewrite),
        most=most or DEFAULT_RESULTS,
        filters=filters,
        mode="dense" if ranker == "none" else "hybrid",
        least_score=least or 0.0,
    )


def results_page(search: Search, passages: Sequence[VectorResult]) -> dict[str, Any]:
    """Give the page of what was found, best first; a score of 1 is the best that there can be."""
    best = BEST_SCORES[search.mode]
    found = [
        search_result(each, min(1.0, max(0.0, each["score"] / best)))
        for each in passages[: search.most]
    ]
    data = [
        {
            "file_id": each["file_id"],
            "filename": each["filename"],
            "score": each["score"],
            "attributes": each["attributes"],
            "content": [{"type": "text", "text": each["text"]}],
        }
        for each in found
        if each["score"] >= search.least_score
    ]
    return {
        "object": "vector_store.search_results.page",
        "search_query": search.queries,
        "data": data,
        "has_more": False,
        "next_page": None,
    }


def _queries(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise wrong_type("query", "a string or an array of strings", value)
    listed = [as_string(f"query[{index}]", each) for index, each in enumerate(value)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if not 1 <= len(listed) <= MOST_QUERIES:
        raise invalid("query", f"give 1 to {MOST_QUERIES} queries, but not {len(listed)}.")
    return listed
