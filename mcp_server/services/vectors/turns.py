"""Who goes next: no tenant keeps another waiting for all of its own calls."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mcp_server.errors import LimitExceeded

# A search keeps a processor busy all the while, here or in the database. One tenant's take half of them:
# the other half is there for the next one's, however many of the first one's wait.
EACH = max(1, (os.cpu_count() or 2) // 2)
AT_ONCE = 2 * EACH
# More would only wait until their callers have given up.
LONGEST = 256


class Turns:
    """At most `at_once` turns are taken, `each` by one tenant; who waits with the fewest goes first.

    However long one tenant's queue is, another begins at once, or waits for one turn to end if several
    tenants share them all. No more than `longest` of one tenant wait.
    """

    def __init__(self, at_once: int = AT_ONCE, each: int = EACH, longest: int = LONGEST) -> None:
        self._free = at_once
        self._each = each
        self._longest = longest
        self._given = 0
        self._taken: Counter[str] = Counter()
        # When each tenant that has turns or waits for some was last given one.
        self._last: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncGenerator[None]:
        """Wait for a turn, and have it while the context is open.

        Raises:
            LimitExceeded: too many of the tenant wait already.
        """
        if self._free and self._taken[tenant] < self._each:
            self._free -= 1
            self._give(tenant)
        else:
            await self._wait(tenant)
        try:
            yield
        finally:
            self._give_back(tenant)

    async def _wait(self, tenant: str) -> None:
        queue = self._waiting.get(tenant, ())
        if len(queue) >= self._longest:
            raise LimitExceeded(
                f"{len(queue)} searches of this tenant wait already; try again", retry_after=1
            )
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
        while chosen := self._next():
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

    def _next(self) -> str | None:
        may = [tenant for tenant in self._waiting if self._taken[tenant] < self._each]
        return min(may, key=self._rank, default=None)

    def _rank(self, tenant: str) -> tuple[int, int]:
        return self._taken[tenant], self._last.get(tenant, 0)
