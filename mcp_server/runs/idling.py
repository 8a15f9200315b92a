"""The runs of this process that do nothing but wait for a run that they started."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


class Idling:
    """Their places are free for others meanwhile: else those that wait could keep out what they wait for."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Count the caller's run while the context is open."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
