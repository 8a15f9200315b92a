"""The stored events of an agent's run as the events of a loop, and its failure as an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_server.agents.events import Finished, LoopEvent, TextDelta, ToolFinished, ToolStarted
from mcp_server.errors import (
    AppError,
    Conflict,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Timeout,
    Unauthenticated,
    Unavailable,
)

_ERRORS: dict[str, type[AppError]] = {
    each.code: each
    for each in (
        Conflict,
        Forbidden,
        InvalidInput,
        LimitExceeded,
        NotFound,
        Timeout,
        Unauthenticated,
        Unavailable,
    )
}


def loop_event(event: Mapping[str, Any]) -> LoopEvent | None:
    """Give the event of the loop that was stored, None for one that a chat does not show."""
    match event["type"]:
        case "text":
            return TextDelta(event["text"], event["turn"], event["field"])
        case "tool_started":
            return ToolStarted(event["call"], event["name"], event["arguments"], event["turn"])
        case "tool_finished":
            return ToolFinished(
                event["call"], event["name"], event["text"], event["is_error"], event["turn"]
            )
        case "message":
            return Finished(
                event["message"], event["finish_reason"], event["usage"], [], event["stopped"]
            )
        case _:
            return None


def run_failure(event: Mapping[str, Any]) -> AppError:
    """Give the error of a run that ended without a message; `event` is its last, of type `status`."""
    error = event.get("error")
    if error is None:
        return Conflict(f"the agent's run was {event.get('status', 'ended')} before it answered")
    return _ERRORS.get(error["code"], AppError)(error["message"])
