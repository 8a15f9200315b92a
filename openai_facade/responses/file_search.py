"""The tool `file_search`: passages out of vector stores, found by the same tool as every other caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from mcp_server.agents.events import ToolOutcome
from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus
from openai_facade.translate.response_object import Item
from openai_facade.translate.response_search import Sources, search_result

DEFAULT_RESULTS = 10
# A passage that is first in every ranking scores the sum of the weights through this: see VectorResult.
_BEST_RANK = 61.0


class FileSearch:
    """Searches the stores of one `file_search` tool; what is found goes to `found` as results."""

    def __init__(
        self,
        bus: Bus,
        principal: Principal,
        tool: Mapping[str, Any],
        sources: Sources,
        found: Callable[[list[Item]], None],
    ) -> None:
        self._bus = bus
        self._principal = principal
        self._sources = sources
        self._found = found
        self._stores: list[str] = tool["vector_store_ids"]
        self._most: int = tool.get("max_num_results") or DEFAULT_RESULTS
        self._filter = tool.get("filters")
        options: Mapping[str, Any] = tool.get("ranking_options") or {}
        weights: Mapping[str, float] = options.get("hybrid_search") or {}
        self._weights = {
            "dense": float(weights.get("embedding_weight", 1.0)),
            "text": float(weights.get("text_weight", 1.0)),
        }
        self._least: float = options.get("score_threshold") or 0.0

    async def search(self, arguments: Mapping[str, Any], *, key: str | None) -> ToolOutcome:
        """Answer one search with numbered passages, the best first.

        Raises:
            AppError: the tool could not be called at all.
        """
        query = arguments.get("query")
        if not isinstance(query, str) or not query.strip():
            return ToolOutcome("invalid_input: query: give a text", is_error=True)
        best = sum(self._weights.values()) / _BEST_RANK
        results: list[Item] = []
        for store in self._stores:
            wanted: dict[str, Any] = {
                "store": store,
                "query": query,
                "k": self._most,
                "weights": self._weights,
            }
            if self._filter is not None:
                wanted["filter"] = self._filter
            answer = await self._bus.call(
                self._principal, "vector_search", wanted, key, by_model=True
            )
            if answer.is_error:
                return ToolOutcome(answer.text, is_error=True)
            passages = cast("dict[str, Any]", answer.structured)["results"]
            results += [search_result(each, min(1.0, each["score"] / best)) for each in passages]
        kept = [result for result in results if result["score"] >= self._least]
        kept.sort(key=lambda result: -result["score"])
        shown = kept[: self._most]
        self._found(shown)
        return ToolOutcome(self._sources.show(shown))
