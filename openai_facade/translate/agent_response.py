"""The stored events of an agent's run as those of a response's stream: the same numbers and ids, wherever and however often they are read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from mcp_server.agents.events import (
    Finished,
    TextDelta,
    ToolFinished,
    ToolStarted,
    TurnFinished,
)
from openai_facade.translate.mcp_opt_in import LABEL
from openai_facade.translate.response_calls import CallKind
from openai_facade.translate.response_events import Event, ResponseEvents
from openai_facade.translate.response_object import Response, item_id
from openai_facade.translate.response_search import Sources
from openai_facade.translate.run_events import ApprovalAsked, Asked, asked_in_response, loop_event

_NO_USAGE: dict[str, Any] = {}
_ENDED = frozenset({"completed", "failed", "cancelled", "expired"})


class AgentResponse:
    """Turns the events of run `run`, all of them and in order, into those of its response.

    Each turn's text is a message of its own and each call an `mcp_call` of this server. Where the run
    asks for an approval, the response is `completed` and ends in the request for it, and where it asks a
    question, in the call of a function that stands for it; once it was answered, it is `in_progress` again.
    """

    def __init__(self, run: str, response: Response) -> None:
        self._run = run
        self._calls: dict[str, CallKind] = {}
        self._asked: Asked | None = None
        self._silent = True
        self._finished = Finished({}, "stop", _NO_USAGE, [])
        numbers = count(1)
        digits = run.rpartition("_")[2]

        def new_id(kind: str) -> str:
            prefix = item_id(kind).partition("_")[0]
            return f"{prefix}_{digits}{next(numbers):08x}"

        self._told = ResponseEvents(response, self._calls, Sources(), new_id=new_id)

    @property
    def asks(self) -> bool:
        """Tell whether what the run asked last may still be open: no call has begun since."""
        return self._asked is not None

    def begin(self) -> list[Event]:
        """Tell that there is a response."""
        return self._told.begin()

    def feed(self, event: Mapping[str, Any], ended_at: int | None = None) -> list[Event]:
        """Give what an event of the run adds; `ended_at` is when it ended, in Unix seconds, for its last one."""
        happened = loop_event(event)
        match happened:
            case TextDelta():
                return self._say(happened)
            case ToolStarted():
                return self._start(happened)
            case ToolFinished():
                return self._told.feed(happened)
            case Finished():
                self._finished = happened
                return []
            case _:
                return self._other(event, ended_at)

    def _other(self, event: Mapping[str, Any], ended_at: int | None) -> list[Event]:
        match event["type"]:
            case "turn_finished":
                self._silent = True
                return self._told.feed(TurnFinished(event["turn"], event["finish_reason"], {}))
            case "turn_incomplete":
                return self._cut()
            case "status":
                return self._change(event, ended_at)
            case _:
                return []

    def _say(self, delta: TextDelta) -> list[Event]:
        """Say a turn's text without the blank line that parts it from the one before."""
        text = delta.text.lstrip("\n") if self._silent else delta.text
        if not text:
            return []
        self._silent = False
        return self._told.feed(TextDelta(text, delta.turn, delta.field))

    def _cut(self) -> list[Event]:
        """End what is open as incomplete, with what there is of it."""
        self._silent = True
        return self._told.feed(TurnFinished(0, "length", {}))

    def _start(self, call: ToolStarted) -> list[Event]:
        self._calls[call.name] = CallKind("mcp", LABEL, call.name)
        asked, self._asked = self._asked, None
        if isinstance(asked, ApprovalAsked) and asked.name == call.name:
            return self._told.approved(call.call_id, call.name, call.arguments, asked.id)
        return self._told.feed(call)

    def _change(self, event: Mapping[str, Any], ended_at: int | None) -> list[Event]:
        status = event["status"]
        if status == "running":
            return self._told.reopen()
        if status == "input_required":
            return self._ask(event)
        return self._end(event, ended_at) if status in _ENDED else []

    def _ask(self, event: Mapping[str, Any]) -> list[Event]:
        asked = self._asked = asked_in_response(self._run, event["request"])
        self._silent = True
        told = self._told.asked_by_run(asked)
        told += self._told.finish(Finished({}, "tool_calls", _NO_USAGE, []), at=0)
        self._told.response |= {"usage": None, "completed_at": None}
        return [*told, self._told.last()]

    def _end(self, event: Mapping[str, Any], ended_at: int | None) -> list[Event]:
        if event["status"] == "completed":
            told = self._told.finish(self._finished, at=ended_at or 0)
            return [*told, self._told.last()]
        error = event.get("error")
        if event["status"] == "cancelled" or error is None:
            error = {"code": event["status"], "message": f"The run was {event['status']}."}
            if event["status"] == "cancelled":  # no event of OpenAI's tells it
                return [*self._cut(), self._told.error(_body(error))]
        told = [*self._cut(), *self._told.fail("server_error", error["message"])]
        return [*told, self._told.error(_body(error)), self._told.last()]


def _body(error: Mapping[str, str]) -> dict[str, Any]:
    return {
        "message": error["message"],
        "type": "server_error",
        "param": None,
        "code": error["code"],
    }
