"""What an answer of a model costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp_server.llm.wire import object_of

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens; `cached_input` is for those of a prompt that the model had read before."""

    input: float
    output: float
    cached_input: float | None = None

    def of(self, usage: Mapping[str, Any]) -> float:
        """Give the price of one answer with OpenAI's usage object; what it does not count is free."""
        prompt = _count(usage, "prompt_tokens")
        details = object_of(usage.get("prompt_tokens_details"))
        cached = min(_count(details, "cached_tokens"), prompt)
        again = self.input if self.cached_input is None else self.cached_input
        read = (prompt - cached) * self.input + cached * again
        return (read + _count(usage, "completion_tokens") * self.output) / _MILLION


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0
