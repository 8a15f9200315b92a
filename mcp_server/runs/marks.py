"""Stores that mark the effects of steps on their own: they cannot see a run's row, and are told which attempts are over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from mcp_server.errors import Unavailable

logger = logging.getLogger(__name__)

# Longer than the control database keeps its own: those it keeps while their run lives.
KEPT_SECONDS = 30 * 24 * 3600.0
_PURGE_SECONDS = 3600.0
# No attempt comes after the end of a run: more than any key can say.
_ENDED = 2**31
_PAUSE_SECONDS = 0.2
PATIENCE_SECONDS = 20.0


class MarkStore(Protocol):
    """One such store, for example the tenants' database."""

    async def raise_fence(self, run: str, attempt: int) -> None:
        """Refuse from now on what attempts of the run before `attempt` would commit.

        Raises:
            LeaseLost: a later attempt was here already. Unavailable: the store does not answer.
        """
        ...

    async def purge_effects(self, seconds: float) -> int:
        """Forget some of what is older, and return how much; 0 once nothing is left."""
        ...


class Marks:
    """All of them, for one worker."""

    def __init__(self, stores: Sequence[MarkStore]) -> None:
        self._stores = stores
        self._purge_at = 0.0

    async def raise_fences(self, run: str, attempt: int) -> None:
        """Return when no earlier attempt at the run can take effect any more.

        Raises:
            LeaseLost: a later attempt has begun. Unavailable: a store was away for 20 seconds.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + PATIENCE_SECONDS
        for store in self._stores:
            while True:
                try:
                    await store.raise_fence(run, attempt)
                    break
                except Unavailable:
                    if clock() > until:
                        raise
                await asyncio.sleep(_PAUSE_SECONDS)

    async def close(self, runs: Sequence[str]) -> None:
        """Refuse from now on what any attempt at these runs, which have ended, would commit.

        Raises:
            Unavailable: a store does not answer.
        """
        for store in self._stores:
            for run in runs:
                await store.raise_fence(run, _ENDED)

    async def purge(self) -> None:
        """Forget what no run can ask for any more, about once an hour."""
        now = asyncio.get_running_loop().time()
        if now < self._purge_at:
            return
        self._purge_at = now + _PURGE_SECONDS
        for store in self._stores:
            try:
                while await store.purge_effects(KEPT_SECONDS):
                    pass
            except Unavailable as error:
                logger.warning("old marks of effects are kept for now (%s)", error)
