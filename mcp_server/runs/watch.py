"""What others decided about the runs that a worker holds: cancelled, taken away, or held without knowing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from mcp_server.runs.attempt import Attempt
from mcp_server.runs.queue import RunQueue

logger = logging.getLogger(__name__)


# With nothing in hand there is nothing to stop: only a claim whose answer got lost is looked for.
IDLE_TURNS = 4


class Holder(Protocol):
    """What is held, and when."""

    @property
    def attempts(self) -> Mapping[str, Attempt]:
        """The attempts in progress, by run."""
        ...

    @property
    def claims(self) -> int:
        """How often a claim began or ended: odd while one is in progress."""
        ...


class Watch:
    """Compares what a worker holds with what the database says, by one query for all of it."""

    def __init__(self, queue: RunQueue, holder: Holder, epoch: Callable[[], int | None]) -> None:
        self._queue = queue
        self._holder = holder
        self._epoch = epoch
        self._turns = 0

    async def look(self) -> None:
        """Stop what is cancelled or not ours any more, and hand back what nobody executes."""
        epoch, before, claims = self._epoch(), dict(self._holder.attempts), self._holder.claims
        self._turns += 1
        if epoch is None or (not before and self._turns % IDLE_TURNS):
            return
        ours = await self._queue.held(epoch)
        for run, attempt in before.items():
            if run not in ours:
                attempt.stop("lost")
            elif ours[run]:
                attempt.stop("cancelled")
        # A claim whose answer got lost: the database says that we hold what we never heard of.
        if claims % 2 == 0 and claims == self._holder.claims:
            for run in ours.keys() - before.keys():
                logger.warning("run %s was claimed, and the answer lost: it is handed back", run)
                await self._queue.hand_back(run, epoch)
