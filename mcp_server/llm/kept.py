"""A model whose answers are kept for a while: the very same request gets the very same answer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol
from uuid import uuid4

from mcp_server.llm import ChatRequest, Chunk, Completion, Model
from mcp_server.llm.batches import Batch, batches_of, flatten
from mcp_server.llm.metered import Observer, Spent
from mcp_server.llm.trail import Trail
from mcp_server.llm.wire import list_of, object_of

# These say nothing of what the answer should be.
_BOOKKEEPING = """
    metadata prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier
    service_tier store user
"""
_NO_MATTER = frozenset(_BOOKKEEPING.split())
_WHOLE_ENDS = frozenset({"stop", "length", "tool_calls", "function_call"})
_MOST_BYTES = 1024 * 1024


class Answers(Protocol):
    """Where answers are kept, apart for each tenant; it may lose them, and must not raise for that."""

    async def get(self, key: str) -> str | None:
        """Give what was put under `key` by the same tenant, if it is still there."""
        ...

    async def put(self, key: str, answer: str, seconds: float) -> None:
        """Keep a JSON text for so long."""
        ...


class Kept:
    """Gives kept answers to repeated requests, whole or chunk by chunk, each under a new id."""

    def __init__(
        self,
        model: Model,
        name: str,
        seconds: float,
        answers: Answers,
        observe: Observer,
        trail: Trail,
    ) -> None:
        self._model = model
        self._name = name
        self._seconds = seconds
        self._answers = answers
        self._observe = observe
        self._trail = trail

    @property
    def name(self) -> str:
        """The name of what answers."""
        return getattr(self._model, "name", self._name)

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer whole; only answers that came to their end are kept."""
        import orjson

        key = self._key(request, "whole")
        found = await self._find(key)
        if found is not None:
            return _anew(found)[0]
        answer = await self._model.complete(request)
        choices = [object_of(each) for each in list_of(answer.get("choices"))]
        if choices and all(each.get("finish_reason") in _WHOLE_ENDS for each in choices):
            await self._keep(key, orjson.dumps([answer]))
        return answer

    def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Answer in chunks, as `stream_batches` does."""
        return flatten(self.stream_batches(request))

    async def stream_batches(self, request: ChatRequest) -> AsyncGenerator[Batch, None]:
        """Answer in batches; a kept stream is given again chunk by chunk, calls of tools as they were."""
        import orjson

        key = self._key(request, "stream")
        found = await self._find(key)
        if found is not None:
            yield _anew(found)
            return
        pieces: list[bytes] = []
        size, ended = 0, True
        async with aclosing(batches_of(self._model, request)) as batches:
            async for batch in batches:
                if size <= _MOST_BYTES:
                    piece = orjson.dumps(batch)[1:-1]  # now: who gets the chunks may change them
                    size += len(piece)
                    pieces.append(piece)
                    ended = ended and not any(map(_is_cut, batch))
                yield batch
        if ended:
            await self._keep(key, b"[" + b",".join(pieces) + b"]")

    async def _find(self, key: str) -> list[dict[str, Any]] | None:
        import orjson

        text = await self._answers.get(key)
        self._trail.cache = "miss" if text is None else "hit"
        if text is None:
            return None
        self._observe(Spent(self._name, "cached"))
        return orjson.loads(text)

    async def _keep(self, key: str, answer: bytes) -> None:
        if len(answer) <= _MOST_BYTES:
            await self._answers.put(key, answer.decode(), self._seconds)

    def _key(self, request: ChatRequest, form: str) -> str:
        import orjson

        body = {name: value for name, value in request.items() if name not in _NO_MATTER}
        body["model"] = self._name
        body.pop("stream", None)
        exact = orjson.dumps([form, body], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(exact).hexdigest()


def _is_cut(chunk: Chunk) -> bool:
    """Tell whether a choice ended otherwise than by itself, as by a filter."""
    reasons = [object_of(each).get("finish_reason") for each in list_of(chunk.get("choices"))]
    return any(reason is not None and reason not in _WHOLE_ENDS for reason in reasons)


def _anew(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give answers ids of their own: whoever stores them knows them apart."""
    name, now = f"chatcmpl-{uuid4().hex}", int(time.time())
    return [{**each, "id": name, "created": now} for each in objects]
