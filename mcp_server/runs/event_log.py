"""The events and finished steps of one run on their way into the store: numbered, in frames, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mcp_server.runs.cleaning import clean_event
from mcp_server.runs.outage import through_outage
from mcp_server.runs.record import Event
from mcp_server.storage.sql.schema import encode_json

FLUSH_SECONDS = 0.1
# What one frame holds at most; a single event takes a million bytes at most.
MOST_EVENTS = 1000
MOST_BYTES = 1_000_000
# These wait for the next frame, and so do the pieces of what grows; what ends an item is written at once.
_WAITING = frozenset({"text", "progress"})
_PIECE = ".delta"


class Appends(Protocol):
    """Where frames go."""

    async def append(self, run: str, epoch: int, first: int, events: Sequence[Event]) -> bool:
        """Store events `first`, `first + 1`, …; False if `epoch` does not hold the run any more."""
        ...


class Finishes(Protocol):
    """Where finished steps go."""

    async def finish(
        self, run: str, epoch: int, step: str, result: Any, first: int, events: Sequence[Event]
    ) -> bool:
        """Store a step's result together with events; False if `epoch` does not hold the run any more."""
        ...


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    result: Any
    stored: asyncio.Future[None]


class EventLog:
    """Collects what a run tells; one task, `write`, stores it.

    Only that task writes: a work that is cancelled in the middle of a store can leave no frame of
    which nobody knows whether it is there.
    """

    def __init__(
        self,
        run: str,
        epoch: int,
        last_seq: int,
        events: Appends,
        steps: Finishes,
        wake: Callable[[], None],
    ) -> None:
        self._run, self._epoch = run, epoch
        self._next_seq = last_seq + 1
        self._events, self._store = events, steps
        self._wake = wake
        self._pending: list[Event] = []
        self._steps: deque[_Step] = deque()
        self._arrived = asyncio.Event()
        self._urgent = asyncio.Event()
        self._closing = False

    def emit(self, event: Event) -> None:
        """Take one event; it is stored within 100 ms, or at once if it ends an item.

        Of reports of progress in one frame the last one counts.
        """
        cleaned = clean_event(event)
        kind = cleaned["type"]
        if kind == "progress" and self._pending and self._pending[-1]["type"] == kind:
            self._pending[-1] = cleaned
        else:
            self._pending.append(cleaned)
        self._arrived.set()
        waits = kind in _WAITING or kind.endswith(_PIECE)
        if not waits or len(self._pending) >= MOST_EVENTS:
            self._urgent.set()

    async def finish(self, step: str, result: Any) -> None:
        """Return when the step's result and all events before it are stored, in one transaction."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._steps.append(_Step(step, result, stored))
        self._arrived.set()
        self._urgent.set()
        await stored

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
            if (self._pending or self._steps) and not await self._flush():
                return False
            if self._closing and not self._pending and not self._steps:
                return True
            await self._pause()
            if self._pending or self._steps or self._closing:
                self._arrived.set()

    async def _pause(self) -> None:
        """Let a frame fill up, unless something must not wait."""
        if self._steps or self._closing or len(self._pending) >= MOST_EVENTS:
            return
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._urgent.wait()
        except TimeoutError:
            return

    async def _flush(self) -> bool:
        """Store one frame, with a step if all events before it fit; a repetition sends the same again."""
        count = _fitting(self._pending)
        frame, self._pending = self._pending[:count], self._pending[count:]
        first = self._next_seq
        step = self._steps.popleft() if self._steps and not self._pending else None
        if not await through_outage(lambda: self._send(step, first, frame)):
            return False
        self._next_seq += len(frame)
        if step is not None and not step.stored.done():
            step.stored.set_result(None)
        self._wake()
        return True

    async def _send(self, step: _Step | None, first: int, frame: list[Event]) -> bool:
        if step is None:
            return await self._events.append(self._run, self._epoch, first, frame)
        at = (step.name, step.result, first)
        return await self._store.finish(self._run, self._epoch, *at, frame)


def _fitting(events: Sequence[Event]) -> int:
    """Return how many of the first events make one frame."""
    size = 0
    for count, event in enumerate(events):
        text = event.get("text")
        size += len(text) if isinstance(text, str) else len(encode_json(event))
        if count == MOST_EVENTS or (size > MOST_BYTES and count > 0):
            return count
    return len(events)
