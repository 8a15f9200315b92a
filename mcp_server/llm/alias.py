"""A model of the operator's making: several upstreams by weight, with retries and fallbacks."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from mcp_server.errors import AppError, NotFound, Unavailable
from mcp_server.llm import OPENAI, ChatRequest, Chunk, Completion, ModelInfo, TargetInfo
from mcp_server.llm.batches import Batch, batches_of, flatten
from mcp_server.llm.breaker import RetryBudget
from mcp_server.llm.guarded import Embeds, Guarded
from mcp_server.llm.plan import Plan, Resolve, Step, Target, in_turn
from mcp_server.llm.trail import current_trail

_CAPABILITIES = ("chat", "tools", "json_schema", "embeddings")
_UNKNOWN = _CAPABILITIES[:3]


class Alias:
    """Asks one target after the other until one answers; never again once a client may have seen a word."""

    def __init__(
        self,
        name: str,
        targets: Sequence[Target],
        resolve: Resolve,
        *,
        fallbacks: Sequence[str] = (),
        context_fallbacks: Sequence[str] = (),
        retries: int = 1,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self.targets = tuple(targets)
        self.provider = self.targets[0].upstream.provider if self.targets else OPENAI
        self._resolve = resolve
        self._fallbacks = tuple(fallbacks)
        self._context_fallbacks = tuple(context_fallbacks)
        self._retries = retries
        self._budget = RetryBudget()
        self._rng = rng or random.Random()  # noqa: S311  a choice by weight, no secret

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer whole. Raises what the last of those asked raised."""
        plan, step = self._begin()
        while True:
            try:
                answer = await step.model.complete({**request, "model": step.known_as})
            except AppError as error:
                step = await plan.after(error)
            else:
                _note(step)
                return answer

    def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Answer in chunks, as `stream_batches` does."""
        return flatten(self.stream_batches(request))

    async def stream_batches(self, request: ChatRequest) -> AsyncGenerator[Batch, None]:
        """Answer in batches of chunks; whoever gave the first of them gives all."""
        plan, step = self._begin()
        while True:
            batches = batches_of(step.model, {**request, "model": step.known_as})
            async with aclosing(batches):
                try:
                    first = await anext(batches, None)
                    if first is None:
                        raise Unavailable("the model ended its answer before it began; try again")
                except AppError as error:
                    step = await plan.after(error)
                    continue
                _note(step)
                yield first
                async for batch in batches:
                    yield batch
                return

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Embed. Raises what the last of those asked raised."""
        plan, step = self._begin()
        while True:
            try:
                if not isinstance(step.model, Embeds):
                    raise NotFound(f"{step.known_as!r} does not embed", param="model")
                answer = await step.model.embed({**body, "model": step.known_as})
            except AppError as error:
                step = await plan.after(error)
            else:
                _note(step)
                return answer

    def info(self, known: Mapping[str, Mapping[str, ModelInfo]]) -> ModelInfo:
        """Describe it; `known` has what each upstream lists, by the upstream's name and the model's id."""
        targets: list[TargetInfo] = []
        able: list[set[str]] = []
        for target in self.targets:
            upstream = target.upstream
            listed = known.get(upstream.name, {}).get(target.model)
            well = upstream.state != "open" and (listed is None or listed.healthy)
            targets.append(
                TargetInfo(upstream.name, target.model, target.weight, well, upstream.state)
            )
            if listed is not None:
                able.append(set(listed.capabilities))
        common = set[str].intersection(*able) if able else set(_UNKNOWN)
        return ModelInfo(
            self.name,
            ", ".join(dict.fromkeys(each.upstream for each in targets)),
            tuple(each for each in _CAPABILITIES if each in common),
            any(each.healthy for each in targets),
            targets=tuple(targets),
            fallbacks=self._fallbacks,
            context_fallbacks=self._context_fallbacks,
        )

    def _begin(self) -> tuple[Plan, Step]:
        plan = Plan(
            in_turn(self.targets, self._rng),
            retries=self._retries,
            budget=self._budget,
            fallbacks=self._fallbacks,
            context_fallbacks=self._context_fallbacks,
            resolve=self._resolve,
        )
        return plan, plan.first()


def _note(step: Step) -> None:
    trail = current_trail()
    if trail is not None and isinstance(step.model, Guarded):  # an alias below has said it itself
        trail.upstream = step.model.name
