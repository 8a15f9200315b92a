"""What happens in a loop as the events of a response's stream, and the Response object growing with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mcp_server.agents.events import (
    CallDelta,
    ContextCompacted,
    Finished,
    LoopEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnIncomplete,
)
from openai_facade.translate.mcp_opt_in import LABEL
from openai_facade.translate.response_calls import CallKind, OpenCall, opened
from openai_facade.translate.response_object import Item, Response, item_id, response_usage
from openai_facade.translate.response_search import Sources
from openai_facade.translate.response_speech import REASONING, Speech, kind_of_field
from openai_facade.translate.response_stream import NewId, Stream
from openai_facade.translate.run_events import Asked, QuestionAsked
from openai_facade.translate.run_ids import item_of_call

Event: TypeAlias = dict[str, Any]

_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseEvents:
    """Turns loop events into stream events; `response` is always what folding those told gives.

    `calls` says what kind of item the call of a function is; the call of a function that is not in it
    shows nowhere. `sequence` is the number of the next event: with it and the `response` of what an
    earlier attempt told, the stream goes on, after `break_off`. `new_id` names its items.
    """

    def __init__(
        self,
        response: Response,
        calls: Mapping[str, CallKind],
        sources: Sources,
        *,
        sequence: int = 0,
        logprobs: bool = False,
        show_results: bool = False,
        new_id: NewId = item_id,
    ) -> None:
        self.response = response
        self.hidden: dict[str, dict[str, Any]] = {}
        self.has_effects = False
        self._stream = Stream(response, sequence, new_id)
        self._calls = calls
        self._sources = sources
        self._logprobs = logprobs
        self._show_results = show_results
        self._speech: Speech | None = None
        self._open: dict[str, OpenCall] = {}
        self._found: list[list[Item]] = []

    @property
    def sequence(self) -> int:
        """The number of the next event."""
        return self._stream.sequence

    def begin(self) -> list[Event]:
        """Tell that there is a response; one in the background is `queued` first."""
        begun = [self._stream.lifecycle("response.created")]
        if self.response["status"] == "queued":
            return [*begun, self._stream.lifecycle("response.queued")]
        return [*begun, self._stream.lifecycle("response.in_progress")]

    def resume(self) -> list[Event]:
        """Tell that work begins on what was queued, and break off what an earlier attempt left open."""
        begun = self.reopen() if self.response["status"] == "queued" else []
        return [*begun, *self.break_off()]

    def reopen(self) -> list[Event]:
        """Tell that work begins, also again on what had come to an end where a person was asked."""
        if self.response["status"] == "in_progress":
            return []
        self.response |= {"status": "in_progress", "completed_at": None}
        return [self._stream.lifecycle("response.in_progress")]

    def break_off(self) -> list[Event]:
        """End every open item as incomplete, also those that an earlier attempt left open."""
        self._speech, self._open = None, {}
        return [
            self._stream.done(index, item | {"status": "incomplete"})
            for index, item in enumerate(self.response["output"])
            if item.get("status") in {"in_progress", "searching"}
        ]

    def listed(self, label: str, tools: Sequence[Item]) -> list[Event]:
        """Tell which tools a server has."""
        return self._listing(label, list(tools), None)

    def not_listed(self, label: str, error: str) -> list[Event]:
        """Tell that a server's tools could not be listed."""
        return self._listing(label, [], error)

    def _listing(self, label: str, tools: list[Item], error: str | None) -> list[Event]:
        item: Item = {
            "id": self._stream.new_id("mcp_list_tools"),
            "type": "mcp_list_tools",
            "server_label": label,
            "tools": [],
        }
        stream = self._stream
        index, added = stream.add(item)
        progress = stream.of_item("response.mcp_list_tools.in_progress", index)
        told = "completed" if error is None else "failed"
        ended = stream.of_item(f"response.mcp_list_tools.{told}", index)
        whole = item | {"tools": tools} | ({} if error is None else {"error": error})
        return [added, progress, ended, stream.done(index, whole)]

    def approved(self, call: str, name: str, arguments: str, request: str) -> list[Event]:
        """Tell that a call begins which a person allowed; its end is a ToolFinished."""
        if name not in self._calls:
            return []
        self.has_effects = True
        asked = self._calls[name]
        made = CallKind("mcp", asked.label, asked.tool)
        told = self._open_call(call, name, made, {"approval_request_id": request})
        opening = self._open[call]
        return [*told, *opening.write(arguments), *opening.start()]

    def refused(self, label: str, tool: str, arguments: str, request: str, why: str) -> list[Event]:
        """Tell of a call that a person refused."""
        item: Item = {
            "id": self._stream.new_id("mcp_call"),
            "type": "mcp_call",
            "status": "failed",
            "server_label": label,
            "name": tool,
            "arguments": arguments,
            "approval_request_id": request,
            "output": None,
            "error": {
                "type": "mcp_tool_execution_error",
                "content": [{"type": "text", "text": why}],
            },
        }
        index, added = self._stream.add(item)
        return [added, self._stream.done(index, item)]

    def asked_by_run(self, asked: Asked) -> list[Event]:
        """Tell what an agent's run asks of a person: a call to be approved, or a question."""
        told = self._close_speech("completed")
        if isinstance(asked, QuestionAsked):
            opening = opened(self._stream, CallKind("function"), asked.id, asked.name)
            told += opening.open({"id": item_of_call(asked.id)})
            return [*told, *opening.write(asked.arguments), *opening.hand_over()]
        item: Item = {
            "id": asked.id,
            "type": "mcp_approval_request",
            "server_label": LABEL,
            "name": asked.name,
            "arguments": asked.arguments,
        }
        index, added = self._stream.add(item)
        return [*told, added, self._stream.done(index, item)]

    def found(self, results: list[Item]) -> None:
        """Take in what a file search found, before its ToolFinished."""
        self._found.append(results)

    def feed(self, event: LoopEvent) -> list[Event]:
        """Give the events that one of the loop causes; its last one goes to `finish`."""
        match event:
            case TextDelta():
                return self._say(event)
            case CallDelta(call_id=call, name=name, arguments=arguments):
                return self._write(call, name, arguments)
            case TurnFinished(finish_reason=reason):
                return self._end_turn("incomplete" if reason in _CUT else "completed")
            case TurnIncomplete():
                return self.break_off()
            case ToolStarted(call_id=call, name=name, arguments=arguments):
                return self._start(call, name, arguments)
            case ToolFinished():
                return self._end_call(event)
            case ContextCompacted():
                return []  # agents' runs tell it; a response shows what was said
            case Finished():
                raise TypeError("the last event of a loop ends the response: call finish")

    def finish(self, finished: Finished, *, at: int) -> list[Event]:
        """End all items and give `response` its end; `at` is in Unix seconds. `last` is to follow."""
        reason = _CUT.get(finished.finish_reason)
        told = self._end_turn("completed" if reason is None else "incomplete")
        self.response["usage"] = response_usage(finished.usage)
        if reason is None:
            self.response |= {"status": "completed", "completed_at": at}
        else:
            self.response |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
        return told

    def fail(self, code: str, message: str) -> list[Event]:
        """End all items as incomplete and `response` as failed; `last` is to follow."""
        told = self.break_off()
        self.response |= {"status": "failed", "error": {"code": code, "message": message}}
        return told

    def error(self, body: Mapping[str, Any]) -> Event:
        """Give the error event, in both of its forms; `body` has message, type, param and code."""
        return self._stream.error(body)

    def last(self) -> Event:
        """Give the last event: which one it is, the status says."""
        return self._stream.lifecycle(f"response.{self.response['status']}")

    # --- text --------------------------------------------------------------------------------

    def _say(self, delta: TextDelta) -> list[Event]:
        kind = kind_of_field(delta.field)
        told: list[Event] = []
        speech = self._speech
        if speech is not None and (speech.kind == REASONING) != (kind == REASONING):
            told += self._close_speech("completed")
            speech = None
        if speech is None:
            speech = self._speech = Speech(self._stream, kind)
            told += speech.open()
        logprobs = delta.logprobs if self._logprobs else None
        return [*told, *speech.say(kind, delta.text, logprobs or [])]

    def _close_speech(self, status: str) -> list[Event]:
        speech, self._speech = self._speech, None
        return [] if speech is None else speech.close(status, self._sources)

    # --- calls -------------------------------------------------------------------------------

    def _write(self, call: str, name: str, arguments: str) -> list[Event]:
        told: list[Event] = []
        if call not in self._open:
            if name not in self._calls:
                return []  # no tool, or a name that is still to come: ToolStarted has it all
            told = self._open_call(call, name, self._calls[name])
        return [*told, *self._open[call].write(arguments)]

    def _open_call(
        self, call: str, name: str, kind: CallKind, more: Mapping[str, Any] | None = None
    ) -> list[Event]:
        told = self._close_speech("completed")
        opening = self._open[call] = opened(self._stream, kind, call, name)
        return [*told, *opening.open(more or {})]

    def _start(self, call: str, name: str, arguments: str) -> list[Event]:
        self.has_effects = True
        if name not in self._calls:
            return []
        told: list[Event] = []
        if call not in self._open:
            told = self._open_call(call, name, self._calls[name])
            told += self._open[call].write(arguments)
        return [*told, *self._open[call].start()]

    def _end_call(self, event: ToolFinished) -> list[Event]:
        opening = self._open.pop(event.call_id, None)
        if opening is None:
            return []
        results = self._found.pop(0) if self._found and opening.kind.kind == "search" else None
        if results is not None:
            self.hidden[opening.item["id"]] = {"results": results}
        shown = results if self._show_results else None
        return opening.end(event.text, is_error=event.is_error, results=shown)

    def _end_turn(self, status: str) -> list[Event]:
        told = self._close_speech(status)
        for call, opening in list(self._open.items()):
            if status == "completed" and opening.kind.on_server:
                continue  # it is made next
            told += opening.hand_over() if status == "completed" else opening.cut()
            del self._open[call]
        return told
