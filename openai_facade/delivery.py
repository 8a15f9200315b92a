"""The way of a chat's answer to its client: whole or in chunks, in the form that the request has, kept if it says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson

from mcp_server.llm import ChatRequest, Chunk, Completion
from mcp_server.llm.batches import Batch
from mcp_server.llm.collect import Collected
from mcp_server.llm.wire import wants_usage
from openai_facade.exchange import Exchange
from openai_facade.translate.old_functions import is_old, old_chunk, old_completion

Keep = Callable[[Completion], Awaitable[None]]
"""Keeps an answer, as it was told, before its client sees the end of it."""


class Delivery:
    """Tells one answer. `body` is the checked request as it came, whatever the model was asked.

    With `keep` the answer has the id `kept_id`: that of an upstream may be anybody's.
    """

    def __init__(
        self,
        exchange: Exchange,
        body: ChatRequest,
        *,
        keep: Keep | None = None,
        kept_id: str | None = None,
    ) -> None:
        self.streams = bool(body.get("stream"))
        self.model_id: str = body["model"]  # the name that the client knows it by
        self.include_usage = wants_usage(body)
        self._exchange = exchange
        self._old = is_old(body)
        # Every request is served alike here, whatever tier it asks for.
        self._tier = "default" if body.get("service_tier") else None
        self._keep = keep
        self._kept_id = kept_id
        self._collected = Collected() if keep is not None and self.streams else None
        # Of most streams, chunks get no more than the name.
        self._plain = not (
            self.include_usage or self._old or self._tier or self._kept_id or self._collected
        )

    async def whole(self, completion: Completion) -> None:
        """Answer in one piece."""
        self._mark(completion)
        _complete(completion)
        if self._old:
            completion = old_completion(completion)
        if self._keep is not None:
            await self._keep(completion)
        await self._exchange.answer(orjson.dumps(completion))

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Begin a stream: status 200 goes out."""
        return self._exchange.open_stream()

    def chunk(self, chunk: Chunk) -> Awaitable[None]:
        """Tell one chunk; it is changed."""
        return self._exchange.event(self._told(chunk))

    def chunks(self, batch: Batch) -> Awaitable[None]:
        """Tell chunks that came together, in one write; they are changed."""
        return self._exchange.events(map(self._told, batch))

    def _told(self, chunk: Chunk) -> bytes:
        if self._plain:
            chunk["model"] = self.model_id
            return orjson.dumps(chunk)
        self._mark(chunk)
        if self.include_usage:
            chunk.setdefault("usage", None)
        if self._collected is not None:
            self._collected.add(chunk)
        if self._old:
            chunk = old_chunk(chunk)
        return orjson.dumps(chunk)

    async def end(self) -> None:
        """End the stream."""
        if self._keep is not None and self._collected is not None:
            whole = _complete(self._collected.completion())
            await self._keep(old_completion(whole) if self._old else whole)
        await self._exchange.done()

    def _mark(self, told: dict[str, Any]) -> None:
        told["model"] = self.model_id
        if self._tier is not None and not told.get("service_tier"):
            told["service_tier"] = self._tier
        if self._kept_id is not None:
            told["id"] = self._kept_id


def _complete(completion: Completion) -> Completion:
    """Fill in what the wire format requires and upstreams like to leave out."""
    choices: list[dict[str, Any]] = completion.get("choices") or []
    for choice in choices:
        choice.setdefault("logprobs", None)
        message: dict[str, Any] = choice.get("message") or {}
        message.setdefault("content", None)
        message.setdefault("refusal", None)
    if completion.get("usage", completion) is None:
        del completion["usage"]
    return completion
