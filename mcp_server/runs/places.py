"""Where the spans of a run stand: in a trace of its own, or below the call of the run that began it."""

from __future__ import annotations

import re

from mcp_server.runs.record import Run
from mcp_server.tracing.places import Place, current_place, read_traceparent, run_place, step_span

_CALL = re.compile(r"call/[0-9]+")


def place_of(run: Run) -> Place:
    """Return the place of a run's own span."""
    return run_place(run.id, run.traceparent if _is_child(run) else None)


def above(run: Run) -> Place | None:
    """Return the span below which a run's own stands: a call of its parent's, which is in the same trace."""
    found = read_traceparent(run.traceparent) if _is_child(run) else None
    return None if found is None else Place(found.trace_id, found.span_id)


def caller_of(run: Run) -> Place | None:
    """Return the span of whoever began a run from outside: in a trace of theirs."""
    return None if _is_child(run) else read_traceparent(run.traceparent)


def below_call(parent: Run, key: str) -> str:
    """Return the `traceparent` of a run that another one begins in the step of this key.

    An agent's calls have spans; of any other run there is only its own.
    """
    place = place_of(parent)
    call = _CALL.match(key.removeprefix(f"{parent.id}/"))
    if call is not None and parent.kind == "agent":
        place = Place(place.trace_id, step_span(parent.id, call[0]))
    return str(place)


def below_caller() -> str | None:
    """Return the `traceparent` of a run that is begun now, None if its caller is in no trace."""
    place = current_place()
    return None if place is None else str(place)


def _is_child(run: Run) -> bool:
    return run.origin is not None and run.origin.startswith("run://")
