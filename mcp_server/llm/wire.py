"""Build and read the chat-completions objects that every engine shares."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

from mcp_server.llm import ChatRequest, Chunk, Completion


def object_of(value: object) -> dict[str, Any]:
    """Give `value` if it is a JSON object, else an empty one: what clients send may be anything."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """Give `value` if it is a JSON array, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def value_of(text: str) -> object:
    """Give the JSON value of a text that a model or a client wrote; None if it is none, or far too deep."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def text_of(content: object) -> str:
    """Give the text of a message's `content`: a string, a list of parts, or null."""
    if isinstance(content, str):
        return content
    parts = [object_of(part) for part in list_of(content)]
    texts = [part.get("text") or part.get("refusal") for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))


def messages_of(request: ChatRequest) -> list[dict[str, Any]]:
    """Give the request's messages; what is not an object is left out."""
    return [message for message in map(object_of, list_of(request.get("messages"))) if message]


def calls_of(message: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Give id, function name and arguments of the tool calls that a message holds."""
    calls = [object_of(call) for call in list_of(message.get("tool_calls"))]
    functions = [(str(call.get("id")), object_of(call.get("function"))) for call in calls]
    return [(key, str(each.get("name")), str(each.get("arguments"))) for key, each in functions]


def wants_usage(request: ChatRequest) -> bool:
    """Tell whether a stream must end with a usage chunk."""
    return bool(object_of(request.get("stream_options")).get("include_usage"))


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Build a usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def sum_usage(usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add the usage objects of several generations that make one answer."""
    listed = list(usages)
    return usage_of(
        sum(int(usage.get("prompt_tokens") or 0) for usage in listed),
        sum(int(usage.get("completion_tokens") or 0) for usage in listed),
    )


def tool_call(name: str, arguments: str) -> dict[str, Any]:
    """Build a tool call of an assistant message; `arguments` is JSON text."""
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": function}


@dataclass(slots=True)
class Frame:
    """The fields that all chunks of one answer share."""

    model: str
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> Chunk:
        """Build a chunk of choice 0."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice], None)

    def call_chunks(
        self, index: int, call: Mapping[str, Any], pieces: Iterable[str]
    ) -> list[Chunk]:
        """Build the chunks of one tool call: its id and name first, then `pieces` of what it is given."""
        kind, text = ("custom", "input") if "custom" in call else ("function", "arguments")
        head = {**call, "index": index, kind: {**call[kind], text: ""}}
        deltas = [head, *({"index": index, kind: {text: piece}} for piece in pieces)]
        return [self.chunk({"tool_calls": [delta]}) for delta in deltas]

    def usage(self, usage: dict[str, Any]) -> Chunk:
        """Build the last chunk of a stream that was asked for usage."""
        return self._object("chat.completion.chunk", [], usage or None)

    def completion(
        self, message: dict[str, Any], finish_reason: str, usage: dict[str, Any]
    ) -> Completion:
        """Build a whole answer of one choice."""
        full = {"role": "assistant", "content": None, "refusal": None, **message}
        choice = {"index": 0, "message": full, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion", [choice], usage or None)

    def _object(
        self, kind: str, choices: list[dict[str, Any]], usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        whole: dict[str, Any] = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        if usage is not None or self.include_usage:
            whole["usage"] = usage
        return whole
