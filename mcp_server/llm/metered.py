"""Counts what each answer of a model took, also when the client did not ask for it or left in the middle."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from mcp_server.errors import AppError, NotFound
from mcp_server.llm import ChatRequest, Chunk, Completion, Model
from mcp_server.llm.batches import Batch, batches_of, flatten
from mcp_server.llm.guarded import Embeds
from mcp_server.llm.wire import messages_of, object_of, text_of, wants_usage

_BYTES_A_TOKEN = 4  # of English text; only for answers that nobody counted


@dataclass(frozen=True, slots=True)
class Spent:
    """One request to a model: `outcome` is `ok`, `cached`, `cancelled` or an error's code; `estimated` if not counted by the model."""

    model: str
    outcome: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False


Observer = Callable[[Spent], None]
"""Is told of each request when it ends; must not block."""


class Metered:
    """A model whose answers are counted under `name`."""

    __slots__ = ("_model", "_name", "_observe")

    def __init__(self, model: Model, name: str, observe: Observer) -> None:
        self._model = model
        self._name = name
        self._observe = observe

    @property
    def name(self) -> str:
        """The name of what answers."""
        return getattr(self._model, "name", self._name)

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer whole, and count it."""
        try:
            answer = await self._model.complete(request)
        except AppError as error:
            self._observe(Spent(self._name, error.code))
            raise
        except BaseException:
            self._observe(Spent(self._name, "cancelled", _guessed(request), 0, estimated=True))
            raise
        self._observe(_spent(self._name, "ok", object_of(answer.get("usage")), request, 0))
        return answer

    def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Answer in chunks, and count them."""
        return flatten(self.stream_batches(request))

    async def stream_batches(self, request: ChatRequest) -> AsyncGenerator[Batch, None]:
        """Answer in batches; usage is always asked for, and shown to those who asked."""
        shown = wants_usage(request)
        options = {**object_of(request.get("stream_options")), "include_usage": True}
        asked = request if shown else {**request, "stream_options": options}
        usage: Mapping[str, Any] = {}
        chunks = 0
        outcome = "cancelled"
        try:
            async with aclosing(batches_of(self._model, asked)) as batches:
                async for batch in batches:
                    chunks += len(batch)
                    for chunk in batch:
                        usage = chunk.get("usage") or usage
                    told = batch if shown else _without_usage(batch)
                    if told:
                        yield told
            outcome = "ok"
        except AppError as error:
            outcome = error.code
            raise
        finally:
            self._observe(_spent(self._name, outcome, usage, request, chunks))

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Embed, and count it."""
        if not isinstance(self._model, Embeds):
            raise NotFound(f"the model {self._name!r} does not embed", param="model")
        try:
            answer = await self._model.embed(body)
        except AppError as error:
            self._observe(Spent(self._name, error.code))
            raise
        usage = object_of(answer.get("usage"))
        self._observe(Spent(self._name, "ok", _whole(usage.get("prompt_tokens"))))
        return answer


def _without_usage(batch: Batch) -> Batch:
    if not any("usage" in chunk for chunk in batch):
        return batch
    kept: Batch = []
    for chunk in batch:
        if "usage" in chunk and chunk.pop("usage") and not chunk.get("choices"):
            continue
        kept.append(chunk)
    return kept


def _spent(
    name: str, outcome: str, usage: Mapping[str, Any], request: ChatRequest, chunks: int
) -> Spent:
    if usage:
        tokens = _whole(usage.get("prompt_tokens")), _whole(usage.get("completion_tokens"))
        return Spent(name, outcome, *tokens)
    if not chunks and outcome not in ("ok", "cancelled"):
        return Spent(name, outcome)  # it was refused
    return Spent(name, outcome, _guessed(request), chunks, estimated=True)


def _guessed(request: ChatRequest) -> int:
    texts = (text_of(message.get("content")) for message in messages_of(request))
    return sum(len(text.encode("utf-8", "replace")) for text in texts) // _BYTES_A_TOKEN


def _whole(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
