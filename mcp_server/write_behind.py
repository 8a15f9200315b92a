"""Writes what piles up a moment later, in one go: nobody who adds to it waits for the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

Flush = Callable[[AsyncEngine], Awaitable[None]]
"""Writes all that waits; what cannot be written now must wait on, and be told as arrived again."""


class WriteBehind:
    """Calls `flush` so many seconds after something arrived, as often as something does."""

    def __init__(self, name: str, seconds: float, flush: Flush) -> None:
        self._name = name
        self._seconds = seconds
        self._flush = flush
        self._arrived = asyncio.Event()

    def arrived(self) -> None:
        """Tell that something waits to be written."""
        self._arrived.set()

    @asynccontextmanager
    async def writing(self, control: AsyncEngine) -> AsyncGenerator[None]:
        """Write while the context is open, and the rest on the way out."""
        writer = asyncio.create_task(self._write_forever(control), name=self._name)
        try:
            yield
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            await self._flush(control)

    async def _write_forever(self, control: AsyncEngine) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(self._seconds)
            self._arrived.clear()
            await self._flush(control)
