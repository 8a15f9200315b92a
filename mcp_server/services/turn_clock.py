"""How long the turns of agents take: from when the model could begin to when it had answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from mcp_server.runs.record import Event

TurnObserver: TypeAlias = Callable[[str, float], None]
"""Is told of each turn's model and seconds when it ends; must not block."""

_BEGINS = frozenset({"tool_finished", "turn_incomplete"})


class TurnClock:
    """Measures the turns of one attempt at a run by what its loop tells; the first begins now."""

    def __init__(self, observers: Sequence[TurnObserver]) -> None:
        self._observers = observers
        self._since = time.monotonic()

    def told(self, event: Event) -> None:
        """Take in an event of the loop."""
        if event["type"] in _BEGINS:
            self._since = time.monotonic()
        elif event["type"] == "turn_finished":
            now = time.monotonic()
            for observe in self._observers:
                observe(event["model"] or "", now - self._since)
            self._since = now
