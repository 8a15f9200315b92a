"""The events of one run on their way into the store: numbered, in frames, durable before anyone sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from mcp_server.runs.outage import through_outage
from mcp_server.runs.record import Event, clean
from mcp_server.runs.store import RunStore

FLUSH_SECONDS = 0.1
# Tokens wait for the next frame; what ends an item is written at once.
_WAITING = frozenset({"text"})


class Followers:
    """Wakes those in this process who follow a run."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def following(self, run: str) -> Generator[asyncio.Event]:
        """Yield an event that is set whenever the run has something new."""
        event = asyncio.Event()
        self._waiting.setdefault(run, set()).add(event)
        try:
            yield event
        finally:
            waiting = self._waiting[run]
            waiting.discard(event)
            if not waiting:
                del self._waiting[run]

    def wake(self, run: str) -> None:
        for event in self._waiting.get(run, ()):
            event.set()


class EventLog:
    """Collects events and stores them; `next_seq` numbers the first one not yet stored."""

    def __init__(self, store: RunStore, run: str, wake: Callable[[], None]) -> None:
        self.next_seq = 0
        self._store = store
        self._run = run
        self._wake = wake
        self._pending: list[Event] = []
        self._arrived = asyncio.Event()
        self._urgent = asyncio.Event()
        self._closing = False

    def emit(self, event: Event) -> None:
        """Take one event; it is stored within 100 ms, or at once if it ends an item."""
        self._pending.append(clean(event))
        self._arrived.set()
        if event["type"] not in _WAITING:
            self._urgent.set()

    def close(self) -> None:
        """Let `write` return when everything is stored."""
        self._closing = True
        self._arrived.set()
        self._urgent.set()

    async def write(self) -> bool:
        """Store what arrives until the log is closed; False if the run is not ours any more.

        The first event after a pause is stored at once, those that follow it 100 ms later.
        """
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            self._urgent.clear()
            if self._pending and not await self._flush():
                return False
            if self._closing and not self._pending:
                return True
            await self._pause()
            if self._pending or self._closing:
                self._arrived.set()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(0 if self._closing else FLUSH_SECONDS):
                await self._urgent.wait()
        except TimeoutError:
            return

    async def _flush(self) -> bool:
        frame, first = self._pending[:], self.next_seq
        if not await through_outage(lambda: self._store.append(self._run, first, frame)):
            return False
        del self._pending[: len(frame)]
        self.next_seq += len(frame)
        self._wake()
        return True
