"""One answer of a model, put together from the chunks of its stream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast
from uuid import uuid4

from mcp_server.llm import Chunk

# What a delta may stream as text. The last two are not OpenAI's: reasoning models behind vLLM,
# llama-server and others send one or the other, and clients show it.
TEXT_FIELDS = ("content", "refusal", "reasoning_content", "reasoning")

_CUT = frozenset({"length", "content_filter"})


@dataclass(slots=True)
class ToolCall:
    """A call as the model wrote it; `arguments` is JSON text, maybe malformed."""

    id: str
    name: str = ""
    arguments: str = ""
    index: int = 0

    def wire(self) -> dict[str, Any]:
        """Give the call as an assistant message holds it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}

    def read(self) -> dict[str, Any]:
        """Parse the arguments; no text at all is an empty object.

        Raises:
            ValueError: they are not a JSON object.
        """
        try:
            value: object = json.loads(self.arguments.strip() or "{}", parse_constant=_refuse)
        except RecursionError as error:
            raise ValueError("nested too deep") from error
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__} where an object is needed")  # noqa: TRY004
        return cast("dict[str, Any]", value)


class Answer:
    """Collects choice 0 of a stream: text by field, tool calls, finish reason, usage."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.model: str | None = None
        self.size = 0
        # What the last chunk added beside text: pieces of calls, and OpenAI's objects of its tokens.
        self.added_calls: list[tuple[ToolCall, str]] = []
        self.added_logprobs: list[dict[str, Any]] = []
        self._pieces: dict[str, list[str]] = {}
        self._calls: list[ToolCall] = []
        self._open: dict[int, ToolCall] = {}

    def add(self, chunk: Chunk) -> list[tuple[str, str]]:
        """Take one chunk in and return its new text as `(field, text)`."""
        self.usage = chunk.get("usage") or self.usage
        self.model = chunk.get("model") or self.model
        added: list[tuple[str, str]] = []
        self.added_calls, self.added_logprobs = [], []
        for choice in chunk.get("choices") or ():
            if choice.get("index") not in {0, None}:
                continue
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            delta: Mapping[str, Any] = choice.get("delta") or {}
            for call in delta.get("tool_calls") or ():
                self._add_call(call)
            logprobs: Mapping[str, Any] = choice.get("logprobs") or {}
            self.added_logprobs += logprobs.get("content") or ()
            texts = ((field, delta.get(field)) for field in TEXT_FIELDS)
            added += [(field, text) for field, text in texts if text and isinstance(text, str)]
        for field, text in added:
            self.size += len(text)
            self._pieces.setdefault(field, []).append(text)
        return added

    @property
    def calls(self) -> list[ToolCall]:
        """The calls by index; none if the answer was cut, for then the last is half a call."""
        if self.finish_reason in _CUT:
            return []
        return sorted(self._calls, key=lambda call: call.index)

    @property
    def reason(self) -> str:
        """The finish reason: some upstreams say `stop` beside calls, or `tool_calls` beside none."""
        if self.calls:
            return "tool_calls"
        reason = self.finish_reason or "stop"
        return "stop" if reason in {"tool_calls", "function_call"} else reason

    def message(self) -> dict[str, Any]:
        """Give the answer as a message of the conversation that the model reads next."""
        texts = {field: "".join(pieces) for field, pieces in self._pieces.items()}
        calls = [_readable(call).wire() for call in self.calls]
        content = texts.pop("content", None if calls else "")
        message = {"role": "assistant", "content": content, **texts}
        return message | {"tool_calls": calls} if calls else message

    def record(self) -> dict[str, Any]:
        """Give what `restored` needs: the message as it was answered, its finish reason, its usage."""
        message: dict[str, Any] = {"role": "assistant", "content": "", **dict(self.texts)}
        if self.calls:
            message["tool_calls"] = [call.wire() for call in self.calls]
        told = {"finish_reason": self.finish_reason, "usage": self.usage, "model": self.model}
        return {"message": message, **told}

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> Answer:
        """Give the answer of a `record`, also of one that its store had to cut."""
        answer = cls()
        message: Mapping[str, Any] = record["message"]
        calls: Sequence[object] = message.get("tool_calls") or ()
        deltas = [
            {"index": index, **cast("Mapping[str, Any]", call)}
            for index, call in enumerate(calls)
            if isinstance(call, Mapping)
        ]
        texts = {name: message[name] for name in TEXT_FIELDS if message.get(name)}
        delta = {**texts, "tool_calls": deltas}
        choice = {"delta": delta, "finish_reason": record["finish_reason"]}
        answer.add({"choices": [choice], "usage": record["usage"], "model": record.get("model")})
        return answer

    @property
    def text(self) -> str:
        """The whole of its `content`."""
        return "".join(self._pieces.get("content", ()))

    @property
    def texts(self) -> list[tuple[str, str]]:
        """The whole text as `(field, text)`, as `add` gave it in pieces."""
        return [(field, "".join(pieces)) for field, pieces in self._pieces.items()]

    def _add_call(self, delta: Mapping[str, Any]) -> None:
        call = self._call_of(delta)
        function: Mapping[str, Any] = delta.get("function") or {}
        # OpenAI sends a name once and whole; an upstream that repeats it must not double it.
        call.name = call.name or function.get("name") or ""
        added: str = function.get("arguments") or ""
        call.arguments += added
        self.added_calls.append((call, added))
        self.size += len(added)

    def _call_of(self, delta: Mapping[str, Any]) -> ToolCall:
        """Find the call that a delta continues, or begin one.

        The index counts (OpenAI's rule). Upstreams that leave it out, or send 0 for each call, are
        understood by their ids.
        """
        given: str | None = delta.get("id") or None
        index: int | None = delta.get("index")
        if index is None:
            last = self._calls[-1] if self._calls else None
            current = last if last is not None and given in {None, last.id} else None
        else:
            current = self._open.get(index)
            if current is not None and given not in {None, current.id}:
                current = None
        if current is None:
            position = len(self._calls) if index is None else index
            current = ToolCall(given or f"call_{uuid4().hex[:24]}", index=position)
            self._calls.append(current)
            self._open[position] = current
        return current


def _readable(call: ToolCall) -> ToolCall:
    """Several upstreams parse the arguments of earlier calls and fail on what is no JSON."""
    try:
        call.read()
    except ValueError:
        return ToolCall(call.id, call.name, "{}", call.index)
    return call


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} has no JSON form")
