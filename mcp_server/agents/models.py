"""The models of one run: the first that answers a turn gives all of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

from mcp_server.errors import AppError, NotFound, Unavailable
from mcp_server.llm import ChatRequest, Chunk, Completion, Model
from mcp_server.llm.plan import is_overflow, others_may

ModelFor: TypeAlias = Callable[[str], Awaitable[tuple[Model, str]]]
"""Resolve a model id: the model, and the id that it knows it by."""


class Fallbacks:
    """A model that asks several by their ids, one after the other, until one says something.

    Its chunks name the id that answered as their `model`.
    """

    def __init__(self, names: Sequence[str], model_for: ModelFor) -> None:
        self._names = names
        self._model_for = model_for

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer whole. Raises what `stream` raises."""
        failure: AppError | None = None
        for name in self._names:
            try:
                model, known_as = await self._model_for(name)
                return await model.complete({**request, "model": known_as}) | {"model": name}
            except AppError as error:
                failure = _passed(failure, error)
        raise failure or _NOBODY

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Answer in chunks.

        Raises:
            AppError: nobody answered, or one failed for a reason that every other would share, or in
                the middle. That the conversation is too long for one of them counts before the rest.
        """
        failure: AppError | None = None
        for name in self._names:
            try:
                model, known_as = await self._model_for(name)
            except AppError as error:
                failure = _passed(failure, error)
                continue
            async with aclosing(model.stream({**request, "model": known_as})) as chunks:
                try:
                    opening = await _opening(chunks)
                except AppError as error:
                    failure = _passed(failure, error)
                    continue
                for chunk in opening:
                    yield {**chunk, "model": name}
                async for chunk in chunks:
                    yield {**chunk, "model": name}
                return
        raise failure or _NOBODY


async def _opening(chunks: AsyncGenerator[Chunk, None]) -> list[Chunk]:
    """Give the chunks up to the first that says something: until then another model may answer."""
    opening: list[Chunk] = []
    async for chunk in chunks:
        opening.append(chunk)
        if any(_says(choice) for choice in chunk.get("choices") or ()):
            return opening
    raise Unavailable("the model ended its answer before it began; try again")


def _says(choice: Mapping[str, Any]) -> bool:
    delta: Mapping[str, Any] = choice.get("delta") or {}
    said = any(value for name, value in delta.items() if name != "role")
    return said or choice.get("finish_reason") is not None


def _passed(failure: AppError | None, error: AppError) -> AppError:
    """Give the error that counts if nobody else answers; raises one that the others would share."""
    if not (is_overflow(error) or others_may(error) or isinstance(error, NotFound)):
        raise error
    return failure if failure is not None and is_overflow(failure) else error


_NOBODY = Unavailable("there is no model to ask")
