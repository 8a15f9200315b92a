"""Executes runs in this process: a bounded number at once, each ended by its work, a cancellation or the server's stop."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal, Protocol, TypeAlias
from weakref import WeakValueDictionary

from mcp_server.errors import AppError, LimitExceeded, Unavailable
from mcp_server.runs.event_log import EventLog, Followers
from mcp_server.runs.outage import OUTAGE, through_outage
from mcp_server.runs.record import Event, Outcome, Run
from mcp_server.runs.store import RunStore

logger = logging.getLogger(__name__)

CONCURRENCY = 8
MOST_HELD = 1000
# One tenant may hold this many, and execute half of what runs at once: the others find room.
MOST_HELD_BY_TENANT = 250
CANCEL_POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
STOP_SECONDS = 10.0

STOPPED = {
    "code": "unavailable",
    "message": "the server stopped before the run ended; start it again",
}
_FAILED = {
    "code": "internal",
    "message": "the run failed unexpectedly; the server's log says why",
}
Reason: TypeAlias = Literal["cancelled", "stopped", "lost"]


class Work(Protocol):
    """What a kind of run does."""

    async def __call__(self, run: Run, emit: Callable[[Event], None]) -> Outcome:
        """Do the work, telling events on the way; an `AppError` fails the run with its text."""
        ...


class _Held:
    """A run that this process holds."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.reason: Reason | None = None
        self.work: asyncio.Task[Outcome] | None = None
        self.ended = asyncio.Event()

    def stop(self, reason: Reason) -> None:
        if self.reason is None:
            self.reason = reason
            if self.work is not None:
                self.work.cancel()


class Executor:
    """Holds runs from `submit` until they have ended in the store."""

    def __init__(self, store: RunStore, work: Work, followers: Followers, concurrency: int) -> None:
        self._store = store
        self._work = work
        self._followers = followers
        self._slots = asyncio.Semaphore(concurrency)
        self._share = max(1, concurrency // 2)
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._held: dict[str, _Held] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        # A run outlives the request that started it, and must not carry that request's context.
        self._context = contextvars.copy_context()

    def check_room(self, tenant: str) -> None:
        """Refuse a run of `tenant` that could not be taken.

        Raises:
            LimitExceeded: too many runs wait. Unavailable: the server stops.
        """
        if self._closing:
            raise Unavailable("the server is stopping; start the run again in a moment")
        own = sum(held.tenant == tenant for held in self._held.values())
        if len(self._held) >= MOST_HELD:
            raise LimitExceeded(f"{MOST_HELD} runs wait already; try again later", retry_after=5)
        if own >= MOST_HELD_BY_TENANT:
            raise LimitExceeded(f"{own} of your runs wait; try again later", retry_after=5)

    async def start(self, run: Run) -> Run:
        """Store a run and take it; a caller that goes away in between leaves nothing half done."""
        return await asyncio.shield(self._spawn(self._create(run)))

    async def cancel(self, run: str) -> bool:
        """Cancel a run that this process holds and wait for its end; False if it holds none."""
        held = self._held.get(run)
        if held is None:
            return False
        held.stop("cancelled")
        await held.ended.wait()
        return True

    async def _create(self, run: Run) -> Run:
        created = await self._store.create(run)
        self._held[run.id] = _Held(run.tenant)
        self._spawn(self._hold(created, self._held[run.id]))
        return created

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _hold(self, run: Run, held: _Held) -> None:
        log = EventLog(self._store, run.id, lambda: self._followers.wake(run.id))
        try:
            held.work = self._spawn(self._perform(run, log))
            if held.reason is not None or self._closing:
                held.stop("stopped")
                held.work.cancel()
            writing = self._spawn(log.write())
            await asyncio.wait({held.work, writing}, return_when=asyncio.FIRST_COMPLETED)
            if not held.work.done():  # the run was taken away, or its events cannot be stored
                held.stop("lost")
                await asyncio.wait({held.work})
            log.close()
            outcome = _outcome(run.id, held.work, held.reason)
            if await writing:
                await through_outage(lambda: self._store.end(run.id, outcome))
        except OUTAGE:
            logger.exception("run %s: its end could not be stored; it will be failed", run.id)
        finally:
            del self._held[run.id]
            held.ended.set()
            self._followers.wake(run.id)

    async def _perform(self, run: Run, log: EventLog) -> Outcome:
        share = self._shares.setdefault(run.tenant, asyncio.Semaphore(self._share))
        async with share, self._slots:
            seq = await through_outage(lambda: self._store.begin(run.id))
            if seq is None:  # taken away while it waited
                raise asyncio.CancelledError
            log.next_seq = seq
            self._followers.wake(run.id)
            return await self._work(run, log.emit)

    async def keep(self) -> None:
        """Renew what is held, notice cancellations asked for elsewhere, end what dead workers left."""
        clock = asyncio.get_running_loop().time
        beat_at = 0.0
        while True:
            try:
                await self._cancel_asked()
                if clock() >= beat_at:
                    beat_at = clock() + HEARTBEAT_SECONDS
                    await self._beat()
                    await self.reap()
            except OUTAGE as error:
                logger.warning("runs: no heartbeat, the database is away (%s)", error)
            await asyncio.sleep(CANCEL_POLL_SECONDS)

    async def reap(self) -> None:
        """End the runs of dead workers."""
        for run in await self._store.reap(STALE_SECONDS, STOPPED):
            logger.warning("run %s: its worker died", run)
            self._followers.wake(run)

    async def close(self) -> None:
        """Stop every run and wait until the store says so."""
        self._closing = True
        for held in self._held.values():
            held.stop("stopped")
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while self._tasks:
                    await asyncio.wait(set(self._tasks))
        except TimeoutError:
            logger.warning("runs: %d tasks did not end in time", len(self._tasks))
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cancel_asked(self) -> None:
        if self._held:
            for run in await self._store.to_cancel(tuple(self._held)):
                if run in self._held:
                    self._held[run].stop("cancelled")

    async def _beat(self) -> None:
        held = dict(self._held)
        if held:
            ours = await self._store.heartbeat(held)
            for run, what in held.items():
                if run not in ours and run in self._held:
                    what.stop("lost")


@asynccontextmanager
async def open_executor(
    store: RunStore, work: Work, followers: Followers, *, concurrency: int = CONCURRENCY
) -> AsyncGenerator[Executor]:
    """Yield an executor; runs that dead processes left are ended first, its own ones on the way out."""
    executor = Executor(store, work, followers, concurrency)
    await through_outage(executor.reap)
    keeper = asyncio.create_task(executor.keep(), name="runs")
    try:
        yield executor
    finally:
        await executor.close()
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


def _outcome(run: str, work: asyncio.Task[Outcome], reason: Reason | None) -> Outcome:
    if not work.cancelled() and work.exception() is None:
        return work.result()
    if reason == "cancelled":
        return Outcome(status="cancelled")
    if reason is not None or work.cancelled():
        return Outcome(status="failed", error=STOPPED)
    error = work.exception()
    if isinstance(error, AppError):
        return Outcome(status="failed", error={"code": error.code, "message": error.message})
    logger.error("run %s failed", run, exc_info=error)
    return Outcome(status="failed", error=_FAILED)
