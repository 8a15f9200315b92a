"""Several choices from a model that gives one: it is asked again for each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from mcp_server.llm import ChatRequest, Chunk
from mcp_server.llm.wire import usage_of, wants_usage

Ask = Callable[[ChatRequest], AsyncGenerator[Chunk, None]]


async def several(ask: Ask, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
    """Stream `n` choices, one after the other, as one answer.

    A seed counts up with the choices, or all would be the same. The prompt is counted once.
    """
    count = int(request.get("n") or 1)
    one = {name: value for name, value in request.items() if name != "n"}
    usages: list[Mapping[str, Any]] = []
    head: dict[str, Any] = {}
    for index in range(count):
        asked = one if count == 1 else _numbered(one, index)
        async with aclosing(ask(asked)) as chunks:
            async for chunk in chunks:
                if count == 1:
                    yield chunk
                    continue
                head = head or {name: chunk[name] for name in ("id", "created", "model", "object")}
                usages += [chunk["usage"]] if chunk.get("usage") else []
                if chunk["choices"]:
                    yield _of(index, chunk, head, asks_usage=wants_usage(request))
    if count > 1 and wants_usage(request):
        yield {**head, "choices": [], "usage": _usage(usages)}


def _numbered(request: ChatRequest, index: int) -> ChatRequest:
    seed: int | None = request.get("seed")
    numbered = {} if seed is None else {"seed": seed + index}
    return request | numbered | {"stream_options": {"include_usage": True}}


def _of(index: int, chunk: Chunk, head: Mapping[str, Any], *, asks_usage: bool) -> Chunk:
    choices = [{**choice, "index": index} for choice in chunk["choices"]]
    told = {name: value for name, value in chunk.items() if name != "usage"}
    whole: Chunk = {**told, **head, "choices": choices}
    return whole | {"usage": None} if asks_usage else whole


def _usage(usages: list[Mapping[str, Any]]) -> dict[str, Any]:
    prompt = max((int(usage.get("prompt_tokens", 0)) for usage in usages), default=0)
    return usage_of(prompt, sum(int(usage.get("completion_tokens", 0)) for usage in usages))
