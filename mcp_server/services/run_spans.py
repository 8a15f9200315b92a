"""Spans of runs: one of each when it ends, and one of each call that its agent made."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.agents.events import Toolbox, ToolOutcome
from mcp_server.agents.previews import Previewing
from mcp_server.runs.fence import parse_key
from mcp_server.runs.places import above, caller_of, place_of
from mcp_server.runs.record import ENDED, Event, Run
from mcp_server.runs.timed_events import timed_events
from mcp_server.services.run_results import TOOL_KIND
from mcp_server.tracing.places import Place, step_span
from mcp_server.tracing.spans import EndedSpan, Spans, Value, usage_attributes

# Who provides the agents, as OpenTelemetry asks it.
_PROVIDER = "isthmus"
_CODE = re.compile(r"([a-z][a-z_]*): ")


@dataclass(frozen=True, slots=True)
class RunSpans:
    """Tells `spans` of runs; `control` has their events."""

    spans: Spans
    control: AsyncEngine

    def run_moved(self, run: Run) -> None:
        """Tell of a run that has ended here: of an agent, or of a tool that takes long."""
        if run.status not in ENDED or run.ended_at is None or run.created_at is None:
            return
        tool = run.kind.removeprefix(TOOL_KIND) if run.kind.startswith(TOOL_KIND) else None
        if tool is None and run.agent is None:
            return
        code = run.error["code"] if run.error is not None else None
        self.spans.add(
            EndedSpan(
                operation="execute_tool" if tool is not None else "invoke_agent",
                subject=tool if tool is not None else str(run.agent),
                started=_nanoseconds(run.started_at or run.created_at),
                ended=_nanoseconds(run.ended_at),
                place=place_of(run),
                parent=above(run),
                link=caller_of(run),
                error=code,
                attributes={
                    **(_of_agent(run) if tool is None else {"gen_ai.tool.name": tool}),
                    "isthmus.run.id": run.id,
                    "isthmus.run.status": run.status,
                    "isthmus.run.attempts": run.attempt,
                },
            )
        )

    async def calls(self, tools: Toolbox, run: Run) -> CallSpans:
        """Return the toolbox of an attempt at a run, which tells of the calls that it makes."""
        begun = await self._begun(run) if run.attempt > 1 else {}
        return CallSpans(tools, self.spans, run.id, place_of(run), begun)

    async def _begun(self, run: Run) -> dict[str, int]:
        """Read when the calls began that earlier attempts may not have ended."""
        begun: dict[str, int] = {}
        async with aclosing(timed_events(self.control, run.id)) as pages:
            async for page in pages:
                for at, event in page:
                    if event["type"] == "tool_started":
                        begun[_step(event)] = _nanoseconds(at)
        return begun


@dataclass(slots=True)
class CallSpans:
    """A toolbox that notes how long its calls take, and tells of each once the loop tells of its end.

    However often the calls of one step are tried, in doubt what came of them or by another attempt,
    they are one span, which began when the step did: `begun` has those of earlier attempts.
    """

    tools: Toolbox
    spans: Spans
    run: str
    place: Place
    begun: dict[str, int]
    _ended: dict[str, int] = field(default_factory=dict[str, int], init=False)

    async def specs(self) -> list[dict[str, Any]]:
        """Give the toolbox's."""
        return await self.tools.specs()

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        """Make a call of the toolbox's."""
        step = parse_key(key) if key is not None else None
        if step is None:
            return await self.tools.call(name, arguments, key=key)
        called = step.key.removeprefix(f"{step.run}/")
        self.begun.setdefault(called, time.time_ns())
        try:
            return await self.tools.call(name, arguments, key=key)
        finally:
            self._ended[called] = time.time_ns()

    async def preview(self, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Tell what a call would do, where the toolbox can."""
        if not isinstance(self.tools, Previewing):
            return None
        return await self.tools.preview(name, arguments)

    def repeatable(self, name: str) -> bool:
        """Tell whether a call made twice with one key takes effect once."""
        return self.tools.repeatable(name)

    def told(self, event: Event) -> None:
        """Take in an event of the loop; a call whose tool was never asked has no span."""
        ended = self._ended.pop(_step(event), None) if event["type"] == "tool_finished" else None
        if ended is None:
            return
        step = _step(event)
        self.spans.add(
            EndedSpan(
                operation="execute_tool",
                subject=event["name"],
                started=self.begun[step],
                ended=ended,
                place=Place(self.place.trace_id, step_span(self.run, step)),
                parent=self.place,
                error=_error(event["text"]) if event["is_error"] else None,
                attributes={
                    "gen_ai.tool.name": event["name"],
                    "gen_ai.tool.call.id": event["call"],
                },
            )
        )


def _of_agent(run: Run) -> dict[str, Value | None]:
    usage: Mapping[str, object] = run.usage or {}
    version = run.agent_version
    return {
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.agent.name": run.agent,
        "gen_ai.agent.version": None if version is None else str(version),
        "gen_ai.conversation.id": run.conversation,
        **usage_attributes(usage),
    }


def _step(event: Event) -> str:
    return f"call/{event.get('number')}"


def _error(text: str) -> str:
    """Return the code of a failed call, which is how its text begins; a tool elsewhere may give none."""
    coded = _CODE.match(text)
    return coded[1] if coded else "_OTHER"


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000
