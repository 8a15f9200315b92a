"""A circuit breaker: stops asking an upstream that keeps failing, and tries it now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

FAILURES = 5
FIRST_SECONDS = 2.0
MOST_SECONDS = 60.0

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Opens after five failures in a row; then one request at a time may try, each later than the one before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._opened_until = 0.0
        self._pause = FIRST_SECONDS
        self._probing = False

    @property
    def state(self) -> State:
        """What it is now; `half_open` means that the next request is the trial."""
        if self._failures < FAILURES:
            return "closed"
        return "open" if self._clock() < self._opened_until else "half_open"

    @property
    def retry_after(self) -> float:
        """Seconds until the next trial."""
        return max(self._opened_until - self._clock(), 1.0)

    def admit(self) -> bool:
        """Tell whether a request may be made; it must then be told how that ended."""
        state = self.state
        if state == "closed":
            return True
        if state == "open" or self._probing:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """A request was answered: whatever was, is over."""
        self._failures = 0
        self._pause = FIRST_SECONDS
        self._probing = False

    def failed(self) -> None:
        """A request failed in a way that the next one would too."""
        self._failures += 1
        if self._failures < FAILURES:
            return
        if self._probing:
            self._pause = min(self._pause * 2, MOST_SECONDS)
        self._probing = False
        self._opened_until = self._clock() + self._pause

    def undecided(self) -> None:
        """A request ended without an answer that tells anything, as when its client left."""
        self._probing = False


class RetryBudget:
    """Bounds what is asked again: one in five requests, and ten in hand."""

    SHARE, MOST = 0.2, 10.0

    def __init__(self) -> None:
        self._left = self.MOST

    def earn(self) -> None:
        """Count a request."""
        self._left = min(self._left + self.SHARE, self.MOST)

    def spend(self) -> bool:
        """Take a retry, and tell whether there was one left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
