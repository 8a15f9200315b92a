"""How many requests each caller had in its window of time, of those that this process served."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from limits import RateLimitItem


@dataclass(frozen=True, slots=True)
class Window:
    """What a request found: whether it still had room, how many more have, and in how many seconds all is free."""

    counted: bool
    remaining: int
    reset: float


class MovingWindows:
    """A moving window for each caller and rate, with the rules of the `limits` library.

    The library's own in memory has a thread look for what is over beside most requests, and moves all
    older entries for each new one. A request here costs the same however many there were.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By caller, requests and seconds of the rate: when each of the last of them came.
        self._hits: OrderedDict[tuple[str, int, int], deque[float]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many windows are kept."""
        return len(self._hits)

    def hit(self, item: RateLimitItem, caller: str) -> Window:
        """Count one request of a caller if its window has room."""
        now, seconds = self._clock(), item.get_expiry()
        self._look_at_one(now)
        key = (caller, item.amount, seconds)
        hits = self._hits.get(key)
        if hits is None:
            hits = self._hits[key] = deque()
        while hits and hits[0] < now - seconds:
            hits.popleft()
        counted = len(hits) < item.amount
        if counted:
            hits.append(now)
        begun = hits[0] if hits else now
        return Window(counted, item.amount - len(hits), begun + seconds - now)

    def _look_at_one(self, now: float) -> None:
        """Drop the next window in turn if all in it is over: callers who are gone leave nothing behind."""
        key = next(iter(self._hits), None)
        if key is None:
            return
        if self._hits[key][-1] < now - key[2]:
            del self._hits[key]
        else:
            self._hits.move_to_end(key)
