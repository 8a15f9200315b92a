"""How many requests an upstream gets at a time; the others wait in a queue with an end."""

from __future__ import annotations

import asyncio

from mcp_server.llm import UpstreamError

_RETRY_SECONDS = 1.0
_BUSY = 503


class Slots:
    """`most` requests at a time, first come first served; None is no bound."""

    def __init__(self, name: str, most: int | None, queue: int, seconds: float) -> None:
        self._name = name
        self._free = None if most is None else asyncio.Semaphore(most)
        self._queue = queue
        self._seconds = seconds
        self.held = 0
        self.waiting = 0

    async def take(self) -> None:
        """Take a place; `release` gives it back.

        Raises:
            UpstreamError: status 503, the queue is full or did not move in time.
        """
        if self._free is not None:
            if self._free.locked():
                await self._wait(self._free)
            else:
                await self._free.acquire()
        self.held += 1

    def release(self) -> None:
        """Give a place back."""
        self.held -= 1
        if self._free is not None:
            self._free.release()

    async def _wait(self, free: asyncio.Semaphore) -> None:
        if self.waiting >= self._queue:
            raise self._busy(f"{self.waiting} requests wait already")
        self.waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                await free.acquire()
        except TimeoutError as error:
            raise self._busy(f"no place came free within {self._seconds:g} s") from error
        finally:
            self.waiting -= 1

    def _busy(self, why: str) -> UpstreamError:
        body = {"message": f"{self._name} is busy: {why}; try again.", "code": "upstream_busy"}
        return UpstreamError(_BUSY, body, upstream=self._name, retry_after=_RETRY_SECONDS)
