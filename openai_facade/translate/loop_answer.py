"""The events of a tool loop as one chat completion, whole or in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mcp_server.agents.events import Finished, LoopEvent, TextDelta, ToolFinished, ToolStarted
from mcp_server.llm import Chunk, Completion
from mcp_server.llm.wire import Frame


@dataclass(slots=True)
class Trace:
    """What the server did for an answer, for the extension field `isthmus` of its last object."""

    tool_name: Callable[[str], str]
    run: str | None = None
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _begun: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def has_effects(self) -> bool:
        """Tell whether a tool was begun: to ask again would then run it again."""
        return bool(self._begun)

    def note(self, event: LoopEvent) -> None:
        """Take in one event."""
        if isinstance(event, ToolStarted):
            self._begun[event.call_id] = event.arguments
        elif isinstance(event, ToolFinished):
            self.calls.append(
                {
                    "name": self.tool_name(event.name),
                    "arguments": self._begun.get(event.call_id, ""),
                    "is_error": event.is_error,
                }
            )

    def extension(self, finished: Finished) -> dict[str, Any]:
        """Give the field: `tool_calls`, `run` of an agent, and `stopped` if a limit ended the loop."""
        told: dict[str, Any] = {"tool_calls": self.calls}
        if self.run is not None:
            told["run"] = self.run
        if finished.stopped is not None:
            told["stopped"] = finished.stopped
        return {"isthmus": told}


class LoopChunks:
    """Turns events into the chunks of one stream: one message, one finish_reason, no inner turns."""

    def __init__(self, frame: Frame, trace: Trace) -> None:
        self._frame = frame
        self._trace = trace
        self._opened = False

    def feed(self, event: LoopEvent) -> list[Chunk]:
        """Give the chunks that an event causes; the first event of all opens the message."""
        self._trace.note(event)
        if isinstance(event, TextDelta):
            return [*self._open(""), self._frame.chunk({event.field: event.text})]
        if isinstance(event, ToolStarted):
            return self._open("")
        if isinstance(event, Finished):
            return self._end(event)
        return []

    def _open(self, content: str | None) -> list[Chunk]:
        if self._opened:
            return []
        self._opened = True
        return [self._frame.chunk({"role": "assistant", "content": content})]

    def _end(self, finished: Finished) -> list[Chunk]:
        chunks = self._open(None if finished.client_calls else "")
        for index, call in enumerate(finished.client_calls):
            written = call["custom"]["input"] if "custom" in call else call["function"]["arguments"]
            chunks += self._frame.call_chunks(index, call, [written])
        last = self._frame.chunk({}, finished.finish_reason)
        chunks.append(last | self._trace.extension(finished))
        if self._frame.include_usage:
            chunks.append(self._frame.usage(finished.usage))
        return chunks


def loop_completion(frame: Frame, trace: Trace, finished: Finished) -> Completion:
    """Give the whole answer."""
    whole = frame.completion(finished.message, finished.finish_reason, finished.usage)
    return whole | trace.extension(finished)
