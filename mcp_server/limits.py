"""What one key may take: requests in a window of time, here or together with other processes, and what it holds at once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from limits import RateLimitItem, errors, parse
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.storage import storage_from_string

from mcp_server.auth.principal import Principal
from mcp_server.errors import LimitExceeded, Unavailable
from mcp_server.moving_window import MovingWindows, Window
from mcp_server.storage.cache.redis import connection_pool


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key has left of its rate: `remaining` of `limit` requests, all of them in `reset` seconds."""

    limit: int
    remaining: int
    reset: float


_allowance: ContextVar[Allowance | None] = ContextVar("isthmus_allowance", default=None)


def current_allowance() -> Allowance | None:
    """Return what was left when this request was counted, None if it has no rate or was not counted."""
    return _allowance.get()


class Limits:
    """Counts requests; a key's own rate wins over the server's, and without either nothing is limited."""

    def __init__(self, default_rate: str | None = None, redis_url: str | None = None) -> None:
        self._pool = None if redis_url is None else connection_pool(redis_url)
        # Without Redis each process counts what it serves.
        self._own = MovingWindows()
        self._shared = None
        if redis_url is not None:
            self._shared = MovingWindowRateLimiter(_redis(redis_url, self._pool))
        self._default = default_rate
        self._items: dict[str, RateLimitItem] = {}

    async def close(self) -> None:
        """Give back the connections to Redis; nothing is counted after that."""
        if self._pool is not None:
            await self._pool.aclose()

    async def count(self, principal: Principal, rate: str | None = None) -> None:
        """Count one request of `principal`.

        Raises:
            LimitExceeded: the window is full; `retry_after` is the wait in seconds.
            Unavailable: Redis does not answer.
        """
        rate = rate or self._default
        if rate is None:
            return
        item = self._items.get(rate)
        if item is None:
            item = self._items[rate] = parse(rate)
        if self._shared is None:
            window = self._own.hit(item, principal.account)
        else:
            window = await _hit(self._shared, item, principal.account)
        wait = max(window.reset, 0.001)
        _allowance.set(Allowance(item.amount, window.remaining, wait))
        if window.counted:
            return
        raise LimitExceeded(
            f"the rate of {rate} is used up; retry in {wait:.1f} seconds", retry_after=wait
        )


class Share:
    """How many of some things one key may hold at once in this process."""

    def __init__(self, most: int, doing: str) -> None:
        self._most = most
        self._doing = doing
        self._held: Counter[str] = Counter()

    def take(self, principal: Principal, count: int = 1) -> Callable[[], None]:
        """Take so many, and return the way to give them back, once.

        Raises:
            LimitExceeded: the key holds too many then.
        """
        bucket = principal.account
        if self._held[bucket] + count > self._most:
            raise LimitExceeded(f"one key may {self._doing} at once; end some first")
        self._held[bucket] += count

        def give_back() -> None:
            self._held[bucket] -= count
            if not self._held[bucket]:
                del self._held[bucket]

        return give_back


async def _hit(shared: MovingWindowRateLimiter, item: RateLimitItem, caller: str) -> Window:
    try:
        counted = await shared.hit(item, caller)
        stats = await shared.get_window_stats(item, caller)
    except errors.StorageError as error:
        raise Unavailable("the rate cannot be counted: Redis does not answer") from error
    return Window(counted, stats.remaining, stats.reset_time - time.time())


def _redis(url: str, pool: Any) -> Storage:
    made = storage_from_string(
        f"async+{url}", implementation="redispy", wrap_exceptions=True, connection_pool=pool
    )
    return cast("Storage", made)  # async+ makes the asynchronous kind, which the types do not say
