"""Where spans stand: the ids that follow from a run's, W3C's `traceparent`, and the place of what happens now."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

# https://www.w3.org/TR/trace-context/#traceparent-header; what a later version adds stands behind it.
_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Place:
    """A span by its ids (32 and 16 hex digits).

    `sampled` tells whether its trace is collected; None leaves that to the sampler, which decides by the
    trace's id.
    """

    trace_id: str
    span_id: str
    sampled: bool | None = None

    def __str__(self) -> str:
        """Give it as a `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{'00' if self.sampled is False else '01'}"


def read_traceparent(text: object) -> Place | None:
    """Read a `traceparent`; None for anything else, which W3C has one pass over."""
    found = _TRACEPARENT.fullmatch(text) if isinstance(text, str) else None
    if found is None or (found["version"] == "00" and found["more"]):
        return None
    return Place(found["trace"], found["span"], bool(int(found["flags"], 16) & _SAMPLED))


def sent_place(headers: Iterable[tuple[bytes, bytes]]) -> Place | None:
    """Return the span of theirs to which a caller says that its HTTP request belongs."""
    for name, value in headers:
        if name == b"traceparent":
            return read_traceparent(value.decode("latin-1"))
    return None


def run_place(run: str, parent: str | None) -> Place:
    """Return the place of a run's own span; `parent` is the `traceparent` of the span below which it is.

    Without one it begins the trace whose id are the run's 32 hex digits. Everything follows from the
    run, so that each process that works on it finds the same.
    """
    above = read_traceparent(parent)
    trace_id = above.trace_id if above is not None else run.removeprefix("run_")
    return Place(trace_id, _derived(run))


def step_span(run: str, step: str) -> str:
    """Return the id of the span of a run's step."""
    return _derived(f"{run}/{step}")


def _derived(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


_place: ContextVar[Place | None] = ContextVar("isthmus_trace_place", default=None)


def current_place() -> Place | None:
    """Return the span inside which this happens: a run's, or the caller's own."""
    return _place.get()


@contextmanager
def standing_in(place: Place | None) -> Generator[None]:
    """Let what happens inside stand below a span, tasks started there included; None changes nothing."""
    if place is None:
        yield
        return
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)
