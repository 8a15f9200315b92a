"""An upstream under its terms: so many at a time, so long, only with fields it takes, and not while it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mcp_server.errors import AppError, NotFound, Timeout, Unavailable
from mcp_server.llm import (
    OPENAI,
    ChatRequest,
    Chunk,
    Completion,
    ModelInfo,
    TookTooLong,
    Upstream,
    UpstreamError,
)
from mcp_server.llm.batches import Batch, batches_of, flatten
from mcp_server.llm.breaker import Breaker, State
from mcp_server.llm.request_fields import fitted
from mcp_server.llm.slots import Slots
from mcp_server.llm.terms import Terms

if TYPE_CHECKING:
    from mcp_server.llm.api_client import RawAnswer

# What the next request would meet as well. A 500 may be of the request's own making, and 429 of its caller's.
_ILL = frozenset({401, 402, 403, 407, 502, 503, 504, 529})


@runtime_checkable
class Embeds(Protocol):
    """An upstream that answers bodies of `POST /embeddings`."""

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Give the whole answer, in which `data` is there. Raises like `Model.complete`."""
        ...


@runtime_checkable
class Raw(Protocol):
    """An upstream to which other requests of OpenAI's API can be passed on as they are."""

    def raw(
        self, path: str, data: bytes, content_type: str
    ) -> AbstractAsyncContextManager[RawAnswer]:
        """POST `data` to `path`; the answer is open while the block runs."""
        ...


class Guarded:
    """One upstream, asked under `terms`; it is itself an upstream."""

    def __init__(
        self,
        inner: Upstream,
        terms: Terms,
        name: str | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self.name = name or inner.name
        self.provider: str = getattr(inner, "provider", OPENAI)
        self.description = inner.description
        self.serves = terms.serves
        self._inner = inner
        self._terms = terms
        self._breaker = breaker or Breaker()
        self.slots = Slots(self.name, terms.concurrency, terms.queue, terms.queue_seconds)

    @property
    def state(self) -> State:
        """What its circuit is."""
        return self._breaker.state

    def warm(self) -> None:
        """Begin to load what the first answer would wait for."""
        self._inner.warm()

    async def models(self) -> list[ModelInfo]:
        """List what the terms name, else what the upstream says."""
        if not self._terms.models:
            return [replace(info, upstream=self.name) for info in await self._inner.models()]
        from mcp_server.llm.openai_compatible import capabilities_of

        return [
            ModelInfo(model, self.name, capabilities_of(model), healthy=True)
            for model in self._terms.models
        ]

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer whole; raises UpstreamError with status 503 while the circuit is open or the queue full."""
        request = fitted(request, self._terms, self.name)
        async with self._asked():
            return await self._inner.complete(request)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Answer in chunks; raises as `complete` does, before the first of them."""
        return flatten(self.stream_batches(request))

    async def stream_batches(self, request: ChatRequest) -> AsyncGenerator[Batch, None]:
        """Answer in batches of chunks; the first must come within its time."""
        request = fitted(request, self._terms, self.name)
        async with self._asked(), aclosing(batches_of(self._inner, request)) as batches:
            yield await self._first(batches)
            self._breaker.succeeded()
            async for batch in batches:
                yield batch

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Embed, if the upstream can."""
        if not isinstance(self._inner, Embeds):
            raise NotFound(f"{self.name} does not embed; name another model", param="model")
        async with self._asked():
            return await self._inner.embed(body)

    @asynccontextmanager
    async def raw(self, path: str, data: bytes, content_type: str) -> AsyncGenerator[RawAnswer]:
        """Pass a request on as it is, if the upstream speaks HTTP."""
        if not isinstance(self._inner, Raw):
            raise NotFound(f"{self.name} takes no such request; name another model", param="model")
        async with self._asked(), self._inner.raw(path, data, content_type) as answer:
            yield answer

    async def _first(self, batches: AsyncGenerator[Batch, None]) -> Batch:
        seconds = self._terms.first_token_seconds
        try:
            async with asyncio.timeout(seconds):
                batch = await anext(batches, None)
        except TimeoutError as error:
            raise Timeout(f"{self.name} gave no first token within {seconds:g} s.") from error
        if batch is None:
            raise Unavailable(f"{self.name} ended its answer before it began.")
        return batch

    @asynccontextmanager
    async def _asked(self) -> AsyncGenerator[None]:
        if self._breaker.state == "open":  # before it waits for a place
            raise self._resting()
        await self.slots.take()
        try:
            if not self._breaker.admit():
                raise self._resting()
            with self._judged():
                yield
        finally:
            self.slots.release()

    @contextmanager
    def _judged(self) -> Generator[None]:
        """Tell the breaker how the request ended."""
        try:
            yield
        except AppError as error:
            self._judge(error)
            raise
        except BaseException:
            self._breaker.undecided()
            raise
        self._breaker.succeeded()

    def _judge(self, error: AppError) -> None:
        if isinstance(error, UpstreamError):
            ill = error.status in _ILL
            well = error.status < 500 and not ill  # it is there, and knows its own mind
        else:
            ill = isinstance(error, Unavailable | Timeout) and not isinstance(error, TookTooLong)
            well = False
        if ill:
            self._breaker.failed()
        elif well:
            self._breaker.succeeded()
        else:
            self._breaker.undecided()

    def _resting(self) -> UpstreamError:
        seconds = self._breaker.retry_after
        body = {
            "message": f"{self.name} keeps failing and is not asked now; try again in {seconds:.0f} s.",
            "code": "upstream_unavailable",
        }
        return UpstreamError(503, body, upstream=self.name, retry_after=seconds)
