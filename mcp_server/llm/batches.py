"""Streams in batches: all chunks that came in one read, so that a relay wakes up and writes once for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol, cast

from mcp_server.llm import ChatRequest, Chunk, Model

Batch = list[Chunk]
"""Chunks in their order, at least one."""


class Batching(Protocol):
    """A model that knows which chunks came together. The terms of `Model.stream` hold."""

    def stream_batches(self, request: ChatRequest) -> AsyncGenerator[Batch, None]:
        """Answer in batches of chunks, each as soon as it exists."""
        ...


def batches_of(model: Model, request: ChatRequest) -> AsyncGenerator[Batch, None]:
    """Stream an answer in batches, of one chunk each if the model knows no others."""
    # `isinstance` of a Protocol walks through its members by name, each time.
    if getattr(model, "stream_batches", None) is not None:
        return cast("Batching", model).stream_batches(request)
    return _singles(model.stream(request))


async def _singles(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Batch, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield [chunk]


async def flatten(batches: AsyncGenerator[Batch, None]) -> AsyncGenerator[Chunk, None]:
    """Give the chunks one by one."""
    async with aclosing(batches):
        async for batch in batches:
            for chunk in batch:
                yield chunk
