"""What a caller may be told of how its answer came about: who gave it, or that it was kept."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Trail:
    """`upstream` is who answered for a model with several; `cache` is `hit` or `miss` where answers are kept."""

    upstream: str | None = None
    cache: str | None = None


_trail: ContextVar[Trail | None] = ContextVar("isthmus_llm_trail", default=None)


def begin_trail() -> Trail:
    """Begin a new one for the request of this task."""
    trail = Trail()
    _trail.set(trail)
    return trail


def current_trail() -> Trail | None:
    """Return that of this task's last request to a model that leaves one."""
    return _trail.get()
