"""A model whose answers are told as spans: which model answered, how long it took, what it used and how it ended."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from mcp_server.errors import AppError
from mcp_server.llm import OPENAI, ChatRequest, Chunk, Completion, Model
from mcp_server.llm.batches import Batch, batches_of, flatten
from mcp_server.llm.wire import list_of, object_of
from mcp_server.tracing.places import Place, current_place
from mcp_server.tracing.spans import EndedSpan, Spans, Value, usage_attributes


@dataclass(slots=True)
class _Asked:
    """One request while it is answered."""

    name: str
    started: int = field(default_factory=time.time_ns)
    parent: Place | None = field(default_factory=current_place)
    first: int | None = None
    usage: Mapping[str, Any] = field(default_factory=dict[str, Any])
    told: dict[str, Value | None] = field(default_factory=dict[str, Value | None])
    reasons: list[str] = field(default_factory=list[str])

    def note(self, answer: Mapping[str, Any]) -> None:
        """Take in a chunk, or a whole answer."""
        if self.first is None:
            self.first = time.time_ns()
            for name in ("id", "model"):
                given = answer.get(name)
                self.told[f"gen_ai.response.{name}"] = given if isinstance(given, str) else None
        self.usage = object_of(answer.get("usage")) or self.usage
        for choice in list_of(answer.get("choices")):
            reason = object_of(choice).get("finish_reason")
            if isinstance(reason, str):
                self.reasons.append(reason)

    def ended(self, provider: str, error: str | None, *, stream: bool) -> EndedSpan:
        """Return its span."""
        waited = None if self.first is None else (self.first - self.started) / 1e9
        return EndedSpan(
            operation="chat",
            subject=self.name,
            started=self.started,
            ended=time.time_ns(),
            parent=self.parent,
            remote=provider == OPENAI,
            error=error,
            attributes={
                "gen_ai.provider.name": provider,
                "gen_ai.request.model": self.name,
                "gen_ai.request.stream": stream,
                "gen_ai.response.time_to_first_chunk": waited if stream else None,
                "gen_ai.response.finish_reasons": self.reasons or None,
                **self.told,
                **usage_attributes(self.usage),
            },
        )


class Spanned:
    """A model that is known as `name`; it is to be asked for usage, or no span can tell of any."""

    def __init__(self, model: Model, name: str, spans: Spans) -> None:
        self._model = model
        self._name = name
        self._spans = spans

    @property
    def name(self) -> str:
        """The name of what answers."""
        return getattr(self._model, "name", self._name)

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer whole."""
        asked = _Asked(self._name)
        error: str | None = "cancelled"
        try:
            answer = await self._model.complete(request)
            asked.note(answer)
            error = None
        except AppError as failure:
            error = failure.code
            raise
        finally:
            self._add(asked, error, stream=False)
        return answer

    def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Answer in chunks."""
        return flatten(self.stream_batches(request))

    async def stream_batches(self, request: ChatRequest) -> AsyncGenerator[Batch, None]:
        """Answer in batches."""
        asked = _Asked(self._name)
        error: str | None = "cancelled"
        try:
            async with aclosing(batches_of(self._model, request)) as batches:
                async for batch in batches:
                    for chunk in batch:
                        asked.note(chunk)
                    yield batch
            error = None
        except AppError as failure:
            error = failure.code
            raise
        finally:
            self._add(asked, error, stream=True)

    def _add(self, asked: _Asked, error: str | None, *, stream: bool) -> None:
        provider: str = getattr(self._model, "provider", OPENAI)
        self._spans.add(asked.ended(provider, error, stream=stream))
