"""What a caller inside the process adds to an MCP request."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from mcp_server.runs.context import RunContext


@dataclass(frozen=True, slots=True)
class Invocation:
    """Its idempotency key, deadline (event loop's time) and run; requests from outside add nothing.

    `run` is the attempt at a run of a long tool, if the call is that run's own work. The caller of a
    `detached` call follows the run that it starts: the call returns as soon as there is one. `by_model`
    tells that a model chose the call which works for this server, in a run or in a chat.
    """

    key: str | None = None
    deadline: float | None = None
    metered: bool = True
    run: RunContext | None = None
    detached: bool = False
    by_model: bool = False


_FROM_OUTSIDE = Invocation()
_invocation: ContextVar[Invocation] = ContextVar("isthmus_invocation", default=_FROM_OUTSIDE)


def current_invocation() -> Invocation:
    """Return what belongs to this request."""
    return _invocation.get()


@contextmanager
def invoking(invocation: Invocation) -> Generator[None]:
    """Give the requests made inside their key, deadline and run."""
    token = _invocation.set(invocation)
    try:
        yield
    finally:
        _invocation.reset(token)


@contextmanager
def detaching() -> Generator[None]:
    """Let the calls made inside return as soon as their run is started."""
    with invoking(replace(_invocation.get(), detached=True)):
        yield
