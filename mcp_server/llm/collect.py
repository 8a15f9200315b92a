"""Put the chunks of a stream together into one completion."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

from mcp_server.llm import Chunk, Completion
from mcp_server.llm.wire import list_of, object_of

_PIECES = frozenset({"choices", "usage"})
_TEXTS = ("content", "refusal", "reasoning_content")


async def collect(chunks: AsyncIterable[Chunk]) -> Completion:
    """Read `chunks` to their end; usage is taken from the chunk that has it."""
    collected = Collected()
    async for chunk in chunks:
        collected.add(chunk)
    return collected.completion()


class Collected:
    """What the chunks of one stream said so far."""

    def __init__(self) -> None:
        self._whole: Completion = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: dict[str, Any] | None = None

    def add(self, chunk: Chunk) -> None:
        """Take one chunk in; it is not changed."""
        self._whole |= {key: value for key, value in chunk.items() if key not in _PIECES}
        self._usage = chunk.get("usage") or self._usage
        for part in chunk["choices"]:
            index = part.get("index", 0)
            _add(self._choices.setdefault(index, _empty(index)), part)

    def completion(self) -> Completion:
        """Give them as one answer."""
        listed = [self._choices[index] for index in sorted(self._choices)]
        whole = {**self._whole, "object": "chat.completion", "choices": listed}
        return {**whole, "usage": self._usage}


def _empty(index: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def _add(choice: dict[str, Any], part: dict[str, Any]) -> None:
    message: dict[str, Any] = choice["message"]
    delta = object_of(part.get("delta"))
    for key in _TEXTS:
        if delta.get(key) is not None:
            message[key] = (message.get(key) or "") + delta[key]
    for call in list_of(delta.get("tool_calls")):
        _add_call(message.setdefault("tool_calls", []), call)
    for kind, tokens in object_of(part.get("logprobs")).items():
        found = object_of(choice["logprobs"]) or {"content": None, "refusal": None}
        if tokens is not None:
            found[kind] = [*list_of(found.get(kind)), *list_of(tokens)]
        choice["logprobs"] = found
    choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]


def _add_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    index = int(part.get("index") or 0)
    kind, text = ("custom", "input") if "custom" in part else ("function", "arguments")
    while len(calls) <= index:
        calls.append({"id": "", "type": kind, kind: {"name": "", text: ""}})
    call = calls[index]
    call["id"] = part.get("id") or call["id"]
    for key, piece in object_of(part.get(kind)).items():
        call[kind][key] += piece or ""
