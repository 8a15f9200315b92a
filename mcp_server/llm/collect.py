"""Put the chunks of a stream together into one completion."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

from mcp_server.llm import Chunk, Completion
from mcp_server.llm.wire import list_of, object_of

_TEXTS = ("content", "refusal", "reasoning_content")


async def collect(chunks: AsyncIterable[Chunk]) -> Completion:
    """Read `chunks` to their end; usage is taken from the chunk that has it."""
    whole: Completion = {}
    choices: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] | None = None
    async for chunk in chunks:
        whole = whole or {key: value for key, value in chunk.items() if key != "choices"}
        usage = chunk.get("usage") or usage
        for part in chunk["choices"]:
            _add(choices.setdefault(part.get("index", 0), _empty(part.get("index", 0))), part)
    listed = [choices[index] for index in sorted(choices)]
    return {**whole, "object": "chat.completion", "choices": listed, "usage": usage}


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
    while len(calls) <= part["index"]:
        empty: dict[str, Any] = {"name": "", "arguments": ""}
        calls.append({"id": "", "type": "function", "function": empty})
    call = calls[int(part["index"])]
    call["id"] = part.get("id") or call["id"]
    for key, text in object_of(part.get("function")).items():
        call["function"][key] += text or ""
