"""Reads the steps of a run out of its events: attempts, turns, compactions, calls and questions, each with its times."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from mcp_server.runs.record import ENDED, Event
from mcp_server.runs.redaction import Redaction
from mcp_server.services.run_results import RunCall, RunError
from mcp_server.services.trace_results import TraceStep
from mcp_server.timestamps import iso

# Of a text in a step; run_events has the whole of it.
MOST_SHOWN = 4_000


class TraceSteps:
    """The steps of one run, fed with its events in their order.

    `workers` made the last attempts of `attempts`. `asked` is how many messages the model had before
    its first turn.
    """

    def __init__(
        self, redaction: Redaction, attempts: int, workers: Sequence[str], asked: int
    ) -> None:
        self.steps: list[TraceStep] = []
        self._redaction = redaction
        self._workers = dict(zip(range(attempts, 0, -1), reversed(workers), strict=False))
        self._messages = asked
        self._attempt = 0
        self._begun: dict[int, datetime] = {}
        self._open: dict[tuple[Any, ...], TraceStep] = {}
        self._queued_at: datetime | None = None
        # Since when the model can have been at work.
        self._free_at: datetime | None = None
        self._taking: dict[str, Callable[[datetime, Event], None]] = {
            "status": self._moved,
            "retry": self._retried,
            "resumed": self._went_on,
            "input": self._went_on,
            "text": self._turn,
            "call": self._turn,
            "turn_finished": self._turn_finished,
            "turn_incomplete": self._turn_cut,
            "context_compacted": self._compacted,
            "tool_started": self._called,
            "tool_finished": self._call_finished,
        }

    def add(self, at: datetime, event: Event) -> None:
        """Take one event in; those that tell of no step are passed over."""
        take = self._taking.get(event["type"])
        if take is not None:
            take(at, event)

    def _went_on(self, at: datetime, event: Event) -> None:
        self._free_at = at
        if event["type"] == "input":
            self._answered(at, event)

    def _retried(self, at: datetime, event: Event) -> None:
        del at
        self._noted(("attempt",), error=_error(event.get("error")))

    def _moved(self, at: datetime, event: Event) -> None:
        status: str = event["status"]
        if status == "running":
            self._attempt = event.get("attempt", 1)
            step = self._begin(("attempt",), "attempt", at, event)
            step["worker"] = self._workers.get(self._attempt)
            if self._queued_at is not None:
                step["queue_seconds"] = _between(self._queued_at, at)
            self._free_at = at
            return
        error = event.get("error")
        told = {"ended_as": status} | ({"error": _error(error)} if error else {})
        self._close(("attempt",), at, **told)
        if status == "input_required":
            self._asked(at, event)
            return
        if status == "queued":
            self._queued_at = at
        for key in list(self._open):
            if status in ENDED or key[0] == "ask":
                self._close(key, at, interrupted=True)

    def _asked(self, at: datetime, event: Event) -> None:
        request: dict[str, Any] = event.get("request") or {}
        kind = "approval" if request.get("kind") == "approval" else "question"
        step = self._begin(("ask", request.get("id")), kind, at, event)
        step["request"] = str(request.get("id"))
        step["message"] = self._text(request.get("message"))
        about = request.get("call")
        if about is not None:
            step["about"] = RunCall(name=about["name"], arguments=self._text(about["arguments"]))

    def _answered(self, at: datetime, event: Event) -> None:
        if "part" in event:  # the last part comes with the whole answer
            return
        answer = self._redaction.apply(event["answer"])
        key = ("ask", event["request"])
        self._close(key, at, answer=answer, by=event.get("by"))

    def _turn(self, at: datetime, event: Event) -> None:
        """Note that the model writes; it was asked when what came before was over."""
        if ("turn",) in self._open:
            return
        step = self._begin(("turn",), "turn", self._free_at or at, event)
        step["turn"] = event["turn"]
        step["messages"] = self._messages
        step["first_seconds"] = _between(self._free_at or at, at)

    def _turn_cut(self, at: datetime, event: Event) -> None:
        del event
        self._close(("turn",), at, interrupted=True)
        self._free_at = at

    def _turn_finished(self, at: datetime, event: Event) -> None:
        self._turn(at, event)
        usage: dict[str, Any] = event.get("usage") or {}
        told = {"finish_reason": event["finish_reason"], "usage": usage, "cost": usage.get("cost")}
        self._close(("turn",), at, **told)
        self._messages += 1
        self._free_at = at

    def _compacted(self, at: datetime, event: Event) -> None:
        step = self._begin(("compaction",), "compaction", self._free_at or at, event)
        usage: dict[str, Any] = event["usage"]
        step["turn"], step["messages"] = event["turn"], event["messages"]
        told = {
            "result": self._text(event["summary"] or ""),
            "usage": usage,
            "cost": usage.get("cost"),
        }
        self._close(("compaction",), at, **told)
        self._messages -= event["messages"]
        self._free_at = at

    def _called(self, at: datetime, event: Event) -> None:
        step = self._begin(_place(event), "call", at, event)
        step["turn"] = event["turn"]
        step["call"] = event["call"]
        step["name"] = event["name"]
        step["arguments"] = self._text(event["arguments"])

    def _call_finished(self, at: datetime, event: Event) -> None:
        step = self._open.get(_place(event))
        if step is not None and step["attempt"] != self._attempt:
            step["ended_in"] = self._attempt
        told = {"result": self._text(event["text"]), "is_error": event["is_error"]}
        self._close(_place(event), at, **told)
        self._messages += 1
        self._free_at = at

    def _begin(self, key: tuple[Any, ...], kind: Any, at: datetime, event: Event) -> TraceStep:
        step = TraceStep(
            kind=kind,
            event=event["seq"],
            attempt=self._attempt,
            started_at=iso(at),
            ended_at=None,
            seconds=None,
        )
        self._begun[step["event"]] = at
        self._open[key] = step
        self.steps.append(step)
        return step

    def _noted(self, key: tuple[Any, ...], **told: Any) -> None:
        step = self._open.get(key)
        if step is not None:
            step.update(told)  # pyright: ignore[reportArgumentType, reportCallIssue]  its own fields

    def _close(self, key: tuple[Any, ...], at: datetime, **told: Any) -> None:
        self._noted(key, **told)
        step = self._open.pop(key, None)
        if step is not None:
            step["ended_at"] = iso(at)
            step["seconds"] = _between(self._begun[step["event"]], at)

    def _text(self, value: Any) -> str:
        return shown(self._redaction.apply(value))


def shown(value: Any) -> str:
    """Return a text, or a value as JSON, cut to what a trace shows."""
    whole = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(whole) <= MOST_SHOWN:
        return whole
    return f"{whole[:MOST_SHOWN]} … [cut: {len(whole)} characters]"


def _place(event: Event) -> tuple[Any, ...]:
    return "call", event["turn"], event["call"]


def _error(error: Mapping[str, str] | None) -> RunError:
    told = error or {}
    return RunError(code=told.get("code", "internal"), message=told.get("message", ""))


def _between(first: datetime, last: datetime) -> float:
    return round(max((last - first).total_seconds(), 0.0), 3)
