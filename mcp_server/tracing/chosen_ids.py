"""Ids of spans that are chosen, not drawn: the SDK asks a generator for them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

from mcp_server.tracing.places import Place


class ChosenIds(IdGenerator):
    """Gives the ids of the place that is chosen, else random ones. For one thread."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._chosen: Place | None = None

    @contextmanager
    def choosing(self, place: Place | None) -> Generator[None]:
        """Give these ids to the span that is begun inside."""
        self._chosen = place
        try:
            yield
        finally:
            self._chosen = None

    def generate_span_id(self) -> int:
        """Return the id of the next span."""
        if self._chosen is None:
            return self._random.generate_span_id()
        return int(self._chosen.span_id, 16)

    def generate_trace_id(self) -> int:
        """Return the id of the next trace."""
        if self._chosen is None:
            return self._random.generate_trace_id()
        return int(self._chosen.trace_id, 16)
