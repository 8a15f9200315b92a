"""The stored events of an agent's run as the events of a loop, and its failure as an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from mcp_server.agents.asked import answer_schema
from mcp_server.agents.events import Finished, LoopEvent, TextDelta, ToolFinished, ToolStarted
from mcp_server.agents.questions import ASK_PERSON
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
from openai_facade.translate.run_ids import approval_id, call_id

APPROVE_CALL = "approve_call"
"""The function whose call asks a chat's client for an approval; another one than that of a question, lest
a client that answers questions by itself approves."""

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


@dataclass(frozen=True, slots=True)
class QuestionAsked:
    """The run asks a person, by the call of a function that the client has; `id` is the call's."""

    id: str
    name: str
    arguments: str

    def call(self) -> dict[str, Any]:
        """Give it as a chat's tool call."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


Asked: TypeAlias = ApprovalAsked | QuestionAsked


def asked_in_response(run: str, request: Mapping[str, Any]) -> Asked:
    """Give what a run's open request is in a response: a request for approval, else a call of `ask_person`."""
    return approval_asked(run, request) or call_asked(run, request)


def call_asked(run: str, request: Mapping[str, Any]) -> QuestionAsked:
    """Give a run's open request as a function call: `approve_call` for an approval, else `ask_person`."""
    told = {"message": request["message"], "schema": answer_schema(dict(request))}
    name = ASK_PERSON
    if request["kind"] == "approval":
        name, told = APPROVE_CALL, told | {"call": request.get("call")}
    arguments = {key: value for key, value in told.items() if value is not None}
    return QuestionAsked(
        call_id(run, request["id"]), name, json.dumps(arguments, ensure_ascii=False)
    )


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
