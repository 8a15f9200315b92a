"""Following runs wherever they are executed: one watcher a process wakes those whose run has something new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from mcp_server.runs.loops import forever
from mcp_server.runs.outage import through_outage
from mcp_server.runs.record import ENDED, Event, Status
from mcp_server.storage.sql.wake import Wake

# The watcher looks at least this often, and at most every 20 ms however many wake-ups come.
POLL_SECONDS = 0.5
COALESCE_SECONDS = 0.02
# A follower outlives a restart of the database, and a client does not wait for ever.
PATIENCE_SECONDS = 120.0
FRAMES_AT_ONCE = 100

Seen = tuple[int, Status]
"""The number of a run's newest event, and its status."""


class Stored(Protocol):
    """Where events are read."""

    async def read(
        self, run: str, after: int, limit_frames: int
    ) -> tuple[list[Event], Status | None]:
        """Return the next events after a number, and the status from before they were read."""
        ...

    async def last(self, run_ids: Collection[str]) -> Mapping[str, Seen]:
        """Return the newest number and the status of each run that there is."""
        ...


class Following:
    """Who follows which run in this process."""

    def __init__(self, events: Stored, wake: Wake) -> None:
        self._events = events
        self._wake = wake
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._seen: dict[str, Seen | None] = {}
        self._wanted = asyncio.Event()

    async def follow(self, run: str, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the events after number `after`, each with its `seq`, as they are stored, up to the end.

        Raises:
            SQLAlchemyError, OSError: the database was away for two minutes.
        """
        with self.moved(run) as news:
            while True:
                news.clear()
                items, status = await self._read(run, after)
                for event in items:
                    after = event["seq"]
                    yield event
                if items:
                    continue
                if status is None or status in ENDED:
                    return
                await news.wait()

    @contextmanager
    def moved(self, run: str) -> Generator[asyncio.Event]:
        """Yield an event that is set whenever the run has a new event or status; clear it, then look.

        It is set once for what there is already.
        """
        event = asyncio.Event()
        self._waiting.setdefault(run, set()).add(event)
        # What the watcher saw before may be older than what this follower missed.
        self._seen[run] = None
        self._wanted.set()
        try:
            yield event
        finally:
            waiting = self._waiting[run]
            waiting.discard(event)
            if not waiting:
                del self._waiting[run]
                del self._seen[run]

    async def watch(self) -> None:
        """Wake the followers of runs that moved, for ever; nothing is asked while nobody follows."""
        with self._wake.listening("runs") as news:
            await forever(self._look, pause=POLL_SECONDS, news=news, least=COALESCE_SECONDS)

    async def _look(self) -> None:
        if not self._waiting:
            self._wanted.clear()
            await self._wanted.wait()
        asked = dict(self._seen)
        now = await self._events.last(tuple(asked))
        for run, before in asked.items():
            # Who came while the query ran may have missed what it shows.
            if run not in self._seen or now.get(run) == before:
                continue
            self._seen[run] = now.get(run)
            for event in self._waiting[run]:
                event.set()

    async def _read(self, run: str, after: int) -> tuple[list[Event], Status | None]:
        return await through_outage(
            lambda: self._events.read(run, after, FRAMES_AT_ONCE),
            patience_seconds=PATIENCE_SECONDS,
        )


@asynccontextmanager
async def open_following(events: Stored, wake: Wake) -> AsyncGenerator[Following]:
    """Yield the followers of this process, with their watcher."""
    following = Following(events, wake)
    watcher = asyncio.create_task(following.watch(), name="runs-followed")
    try:
        yield following
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
