"""Who goes next: no tenant keeps another waiting for all of its own calls."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

# More at once would only make each slower: a search keeps a processor busy, here or in the database.
AT_ONCE = max(2, os.cpu_count() or 2)


class Turns:
    """At most `at_once` turns are taken; of those who wait, the tenant with the fewest turns goes first.

    A tenant that is alone has them all. Beside it, another waits for one turn to end, however long the
    first one's queue is.
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free = at_once
        self._given = 0
        self._taken: Counter[str] = Counter()
        # When each tenant that has turns or waits for some was last given one.
        self._last: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncGenerator[None]:
        """Wait for a turn, and have it while the context is open."""
        if self._free:
            self._free -= 1
            self._give(tenant)
        else:
            await self._wait(tenant)
        try:
            yield
        finally:
            self._give_back(tenant)

    async def _wait(self, tenant: str) -> None:
        ready = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(ready)
        try:
            await ready
        except asyncio.CancelledError:
            if ready.done() and not ready.cancelled():
                self._give_back(tenant)  # it was given a turn in this moment
            raise  # what is cancelled is passed over

    def _give(self, tenant: str) -> None:
        self._given += 1
        self._taken[tenant] += 1
        self._last[tenant] = self._given

    def _give_back(self, tenant: str) -> None:
        self._taken[tenant] -= 1
        if not self._taken[tenant]:
            del self._taken[tenant]
            if tenant not in self._waiting:
                del self._last[tenant]
        while self._waiting:
            chosen = min(self._waiting, key=self._rank)
            queue = self._waiting[chosen]
            ready = queue.popleft()
            if not queue:
                del self._waiting[chosen]
            if not ready.done():
                self._give(chosen)
                ready.set_result(None)
                return
            if chosen not in self._waiting and chosen not in self._taken:
                self._last.pop(chosen, None)
        self._free += 1

    def _rank(self, tenant: str) -> tuple[int, int]:
        return self._taken[tenant], self._last.get(tenant, 0)
