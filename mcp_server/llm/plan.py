"""Whom one request asks, in which order, and who comes next after a failure."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mcp_server.errors import AppError, Timeout, Unavailable
from mcp_server.llm import Model, UpstreamError
from mcp_server.llm.breaker import RetryBudget
from mcp_server.llm.guarded import Guarded

CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
# Refusals that are of this upstream, not of the request: another one may answer it.
_OTHERS_MAY = frozenset({401, 402, 403, 404, 405, 407, 408, 409, 425, 429})
# Of these it makes sense to ask the same one again, a little later.
_LATER = frozenset({408, 409, 425, 429})
_FIRST_PAUSE, _MOST_PAUSE = 0.25, 4.0
_UNSUPPORTED = "unsupported_parameter"

_log = logging.getLogger("isthmus.llm")

Resolve = Callable[[str], Awaitable[tuple[Model, str]]]


@dataclass(frozen=True, slots=True)
class Target:
    """One upstream that may answer, under the id that it knows."""

    upstream: Guarded
    model: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """Whom to ask now."""

    model: Model
    known_as: str
    target: Target | None = None


def is_overflow(error: AppError) -> bool:
    """Tell whether the request is longer than the model's context."""
    return isinstance(error, UpstreamError) and error.body.get("code") in CONTEXT_CODES


def others_may(error: AppError) -> bool:
    """Tell whether another upstream might answer what this one did not."""
    if isinstance(error, UpstreamError):
        unfit = error.body.get("code") == _UNSUPPORTED
        return unfit or error.status in _OTHERS_MAY or error.status >= 500
    return isinstance(error, Unavailable | Timeout)


def again_later(error: AppError) -> bool:
    """Tell whether the same upstream might answer a little later."""
    if isinstance(error, UpstreamError):
        return error.status in _LATER or error.status >= 500
    return isinstance(error, Unavailable | Timeout)


def in_turn(targets: Sequence[Target], rng: random.Random) -> list[Target]:
    """Draw all targets by their weights: those of weight 0 come last, then those with an open circuit.

    Each is drawn with a chance proportional to its weight among those that are left (Efraimidis and
    Spirakis, 2006).
    """

    def key(target: Target) -> tuple[bool, float]:
        drawn = rng.random() ** (1 / target.weight) if target.weight > 0 else -1.0
        return target.upstream.state == "open", -drawn

    return sorted(targets, key=key)


class Plan:
    """The steps of one request: its targets in turn, once more each as the budget allows, then fallbacks."""

    def __init__(
        self,
        targets: list[Target],
        *,
        retries: int,
        budget: RetryBudget,
        fallbacks: Sequence[str],
        context_fallbacks: Sequence[str],
        resolve: Resolve,
    ) -> None:
        self._waiting = deque(targets)
        self._failed: list[Target] = []
        self._retries = retries
        self._round = 0
        self._budget = budget
        self._fallbacks = deque(fallbacks)
        self._context_fallbacks = context_fallbacks
        self._resolve = resolve
        self._now: Target | None = None
        budget.earn()

    def first(self) -> Step:
        """Give the first step."""
        return self._ask(self._waiting.popleft())

    async def after(self, error: AppError) -> Step:
        """Give the step after one that failed with `error`, which is raised if there is none."""
        if is_overflow(error):
            self._waiting.clear()
            self._failed.clear()
            self._fallbacks = deque(self._context_fallbacks)
            self._context_fallbacks = ()
        elif not others_may(error):
            raise error
        elif self._now is not None and again_later(error):
            self._failed.append(self._now)
        _log.info("a model did not answer, and another is asked if there is one: %s", error)
        if not self._waiting and self._failed and self._may_retry():
            await asyncio.sleep(self._pause(error))
            self._waiting, self._failed = deque(self._failed), []
        if self._waiting:
            return self._ask(self._waiting.popleft())
        return await self._fall_back(error)

    def _ask(self, target: Target) -> Step:
        self._now = target
        return Step(target.upstream, target.model, target)

    def _may_retry(self) -> bool:
        if self._round >= self._retries or not self._budget.spend():
            return False
        self._round += 1
        return True

    def _pause(self, error: AppError) -> float:
        asked = error.retry_after if isinstance(error, UpstreamError) else None
        pause = min(_FIRST_PAUSE * 2 ** (self._round - 1), _MOST_PAUSE)
        spread = pause * random.uniform(0.5, 1.0)  # noqa: S311  spread, not secret
        return spread if asked is None else min(max(asked, spread), _MOST_PAUSE)

    async def _fall_back(self, error: AppError) -> Step:
        self._now = None
        while self._fallbacks:
            name = self._fallbacks.popleft()
            try:
                model, known_as = await self._resolve(name)
            except AppError as failure:
                _log.warning("the fallback %r cannot be asked: %s", name, failure)
                continue
            return Step(model, known_as)
        raise error
