"""Watching runs: their stored events, the next ones, their newest, and how one is ended from outside."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import orjson

from mcp_server.errors import InvalidInput, Unavailable
from mcp_server.runs.events import RunEvents as EventStore
from mcp_server.runs.following import Following
from mcp_server.runs.outage import OUTAGE
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.record import ENDED, Event, Run
from mcp_server.services.run_results import RunEvents
from mcp_server.storage.sql.schema import encode_json
from mcp_server.storage.sql.wake import Wake

MAX_POLL_SECONDS = 60.0
MAX_WAIT_SECONDS = 600.0
# What one answer holds of a run's events at most.
MOST_EVENTS = 1000
MOST_BYTES = 1_048_576
_FRAMES = 20
# The newest events of a run that tells a lot lie in many small frames.
_NEWEST_FRAMES = 200
# How long the worker of a cancelled run has to end it; then it is ended without its worker.
CANCEL_SECONDS = 0.7

OnEvent = Callable[[Event], Awaitable[None]]


class RunWatch:
    """Reads and follows runs, for operations that are already open."""

    def __init__(
        self, queue: RunQueue, events: EventStore, following: Following, wake: Wake
    ) -> None:
        self._queue = queue
        self._events = events
        self._following = following
        self._wake = wake

    async def follow(self, run: str, after: int) -> AsyncGenerator[Event, None]:
        """Yield the events after number `after` as they are stored, up to the run's end.

        Raises:
            Unavailable: the database was away for too long; the run itself may go on.
        """
        try:
            async with aclosing(self._following.follow(run, after)) as events:
                async for event in events:
                    yield event
        except OUTAGE as error:
            raise Unavailable(
                f"the events of run {run} cannot be read now; ask run_get later what became of it"
            ) from error

    async def settle(
        self, tenant: str, run: str, on_event: OnEvent | None = None, after: int = 0
    ) -> None:
        """Return when the run has ended, or waits for input; tell its events after number `after` until then."""
        if after and await self._rests(tenant, run):  # the event that says so may be before it
            return
        async with aclosing(self.follow(run, after)) as events:
            async for event in events:
                if on_event is not None:
                    await on_event(event)
                asks = event["type"] == "status" and event["status"] == "input_required"
                if asks and await self._rests(tenant, run):
                    return

    async def settle_within(
        self,
        seconds: float,
        tenant: str,
        run: str,
        on_event: OnEvent | None = None,
        after: int = 0,
    ) -> None:
        """Return as `settle` does, or when the time is up."""
        try:
            async with asyncio.timeout(seconds):
                await self.settle(tenant, run, on_event, after)
        except TimeoutError:
            pass

    async def _rests(self, tenant: str, run: str) -> bool:
        """Tell whether a run waits for input now: its question may have been answered since."""
        found = await self._queue.load(tenant, run)
        return found is None or found.status == "input_required"

    async def page(self, run: Run, after: int, limit: int, wait_seconds: float) -> RunEvents:
        """Return up to `limit` stored events after number `after`; wait for the first one if told to.

        Raises:
            InvalidInput: a number is out of its range.
        """
        if not 0 <= wait_seconds <= MAX_POLL_SECONDS:
            raise InvalidInput(
                f"wait_seconds: {wait_seconds} is not within 0-{MAX_POLL_SECONDS:g}; ask again after it",
                param="wait_seconds",
            )
        if not 0 <= after < 2**63:
            raise InvalidInput(
                f"after: {after} is not the number of an event; pass next_after", param="after"
            )
        if wait_seconds and run.last_seq <= after and run.status not in ENDED:
            await self._next(run.id, after, wait_seconds)
        items: list[Event] = []
        size = 0
        status: str = run.status
        while len(items) < limit and size < MOST_BYTES:
            seen = items[-1]["seq"] if items else after
            more, now = await self._events.read(run.id, seen, _FRAMES)
            status = now or status
            for event in more:
                size += _size(event)
                if len(items) == limit or (items and size > MOST_BYTES):
                    break
                items.append(event)
            if not more:
                break
        return RunEvents(
            items=items, next_after=items[-1]["seq"] if items else after, status=status
        )

    async def newest(self, run: Run) -> list[dict[str, Any]]:
        """Return the newest events, oldest first: up to 1,000 of them, or 1 MiB."""
        kept: deque[tuple[int, Event]] = deque()
        size = 0
        after = max(run.last_seq - MOST_EVENTS, 0)
        while True:
            more, _ = await self._events.read(run.id, after, _NEWEST_FRAMES)
            if not more:
                return [event for _, event in kept]
            after = more[-1]["seq"]
            for event in more:
                kept.append((_size(event), event))
                size += kept[-1][0]
                while len(kept) > MOST_EVENTS or (size > MOST_BYTES and len(kept) > 1):
                    size -= kept.popleft()[0]

    async def cancel(self, run: Run) -> None:
        """End a run as cancelled, wherever it is; one that has ended stays as it is."""
        status = await self._queue.request_cancel(run.tenant, run.id)
        self.tell()
        if status != "running":
            return
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                async with aclosing(self.follow(run.id, run.last_seq)) as events:
                    async for _ in events:
                        pass
        except TimeoutError:  # its worker is dead or stuck; what it still writes is refused
            await self._queue.force_cancel(run.tenant, run.id)
            self.tell()

    def tell(self) -> None:
        """Wake whoever holds or follows runs, and the readers of the journal."""
        self._wake.send("runs")
        self._wake.send("journal")

    async def _next(self, run: str, after: int, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds), aclosing(self.follow(run, after)) as events:
                async for _ in events:
                    return
        except TimeoutError:
            return


def check_wait(seconds: float) -> None:
    """Refuse a wait for a run that is out of its range.

    Raises:
        InvalidInput: it is negative or over 600 seconds.
    """
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise InvalidInput(
            f"wait_seconds: {seconds} is not within 0-{MAX_WAIT_SECONDS:g}; "
            "run_get tells later what became of the run",
            param="wait_seconds",
        )


def _size(event: Event) -> int:
    """Return how many bytes of JSON an event takes; it is asked of each event of each answer."""
    try:
        return len(orjson.dumps(event))
    except TypeError:  # numbers of more than 64 bits
        return len(encode_json(event))
