"""The stored events of an agent's run as the events of a loop, and its failure as an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from openai_facade.translate.run_ids import approval_id

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


@dataclass(frozen=True, slots=True)
class ApprovalAsked:
    """A call of the run waits for a person; `id` is that of the approval request."""

    id: str
    name: str
    arguments: str


def approval_asked(run: str, request: Mapping[str, Any]) -> ApprovalAsked | None:
    """Give what a run's open request asks to be approved, None if it asks anything else."""
    call = request.get("call")
    if request["kind"] != "approval" or call is None:
        return None
    return ApprovalAsked(approval_id(run, request["id"]), call["name"], call["arguments"])


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
            # OpenAI's usage knows no cost.
            usage = {name: value for name, value in event["usage"].items() if name != "cost"}
            return Finished(event["message"], event["finish_reason"], usage, [], event["stopped"])
        case _:
            return None


def run_failure(event: Mapping[str, Any]) -> AppError:
    """Give the error of a run that ended without a message; `event` is its last, of type `status`."""
    error = event.get("error")
    if error is None:
        return Conflict(f"the agent's run was {event.get('status', 'ended')} before it answered")
    return _ERRORS.get(error["code"], AppError)(error["message"])
