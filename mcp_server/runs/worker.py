"""A worker: claims runs while it has room, executes them under one lease, and hands back what it cannot finish."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mcp_server.runs.attempt import Attempt, Reason
from mcp_server.runs.context import Work
from mcp_server.runs.heartbeat import Heartbeat
from mcp_server.runs.idling import Idling
from mcp_server.runs.intervals import Timing
from mcp_server.runs.loops import forever
from mcp_server.runs.marks import Marks, MarkStore
from mcp_server.runs.outage import OUTAGE
from mcp_server.runs.record import Run
from mcp_server.runs.stores import Stores
from mcp_server.runs.upkeep import Upkeep
from mcp_server.runs.watch import Watch
from mcp_server.storage.sql.wake import Wake

logger = logging.getLogger(__name__)

CONCURRENCY = 8
# For each place so many runs may wait for those that they started, which may wait in turn.
MOST_IDLING = 16

__all__ = ["CONCURRENCY", "Timing", "Worker", "open_worker"]


class Worker:
    """Executes up to `concurrency` runs at once, of one tenant at most half as many.

    Runs that only wait for others leave their places to them, within a bound on all that are held.
    """

    def __init__(
        self,
        stores: Stores,
        works: Mapping[str, Work],
        wake: Wake,
        *,
        concurrency: int,
        timing: Timing,
        idling: Idling,
        marks: Marks,
    ) -> None:
        self._idling, self._marks = idling, marks
        self._stores, self._works, self._wake = stores, works, wake
        self._concurrency = concurrency
        self._share = max(1, concurrency // 2)
        self._timing = timing
        name = f"{socket.gethostname()}/{os.getpid()}"
        self._heartbeat = Heartbeat(stores.heartbeat, name, concurrency, timing, self._leased)
        self._watch = Watch(stores.queue, self, lambda: self._heartbeat.epoch)
        self._upkeep = Upkeep(stores.leases, stores.sweep, self._marks, self._heartbeat, self._tell)
        self.attempts: dict[str, Attempt] = {}
        self.claims = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._claiming: asyncio.Task[None] | None = None

    @property
    def held(self) -> frozenset[str]:
        """The runs that this worker executes now."""
        return frozenset(self.attempts)

    @property
    def keeper(self) -> bool:
        """Whether it is upon this worker to do what one must do for all."""
        return self._heartbeat.keeper

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Claim and execute while the context is open; then hand back what has not ended."""
        timing, upkeep = self._timing, self._upkeep
        with self._wake.listening("queue") as self._room, self._wake.listening("runs") as news:
            claiming = forever(self._claim, pause=timing.claim, news=self._room, least=timing.batch)
            watching = forever(
                self._watch.look, pause=timing.watch, news=news, least=timing.coalesce
            )
            self._claiming = _spawn(claiming, "claim")
            loops = [
                _spawn(self._heartbeat.keep(), "heartbeat"),
                _spawn(watching, "watch"),
                _spawn(forever(upkeep.sweep, pause=timing.sweep), "sweep"),
                _spawn(forever(upkeep.tidy, pause=timing.tidy), "tidy"),
            ]
            try:
                yield
            finally:
                await self.drain(0)
                await self._hand_back()
                await _end(*loops)
                await self._give_up()

    async def drain(self, seconds: float) -> None:
        """Claim nothing more, and give what runs so many seconds to end by itself."""
        if self._claiming is not None:
            await _end(self._claiming)
        if self._tasks and seconds > 0:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def _hand_back(self) -> None:
        self._stop_all("drained")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timing.stop)
            await _end(*self._tasks)

    async def _give_up(self) -> None:
        if self._heartbeat.epoch is not None:
            try:
                async with asyncio.timeout(self._timing.stop):
                    await self._stores.leases.give_up(self._heartbeat.epoch)
            except OUTAGE as error:
                logger.warning("runs: the lease is left to expire (%s)", error)
        self._wake.send("queue")
        self._tell()

    async def _claim(self) -> None:
        spare = min(self._idling.count, self._concurrency * MOST_IDLING)
        free, share = self._concurrency + spare - len(self._tasks), self._share + spare
        epoch = self._heartbeat.epoch
        if free <= 0 or epoch is None or not self._heartbeat.sure():
            return
        self.claims += 1
        try:
            kinds = tuple(self._works)
            runs = await self._stores.queue.claim(epoch, kinds, free, share)
            if not self._heartbeat.sure():
                return  # too late to begin: they are another worker's now, or the watch finds them
            for run in runs:
                self._start(run, epoch)
        finally:
            self.claims += 1
        if runs:
            self._tell()

    def _start(self, run: Run, epoch: int) -> None:
        heartbeat = self._heartbeat
        attempt = Attempt(
            run,
            epoch,
            self._stores,
            self._timing,
            leased=lambda: heartbeat.epoch == epoch and heartbeat.sure(),
            tell=self._tell,
            marks=self._marks,
        )
        if heartbeat.epoch != epoch:
            attempt.stop("lost")
        self.attempts[run.id] = attempt
        task = _spawn(self._perform(attempt), run.id)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.set()

    async def _perform(self, attempt: Attempt) -> None:
        run = attempt.run
        try:
            await attempt.perform(self._works[run.kind])
        except Exception:  # as long as the store says that we hold it, the watch hands it back
            logger.exception("run %s: its end could not be stored", run.id)
        finally:
            if self.attempts.get(run.id) is attempt:
                del self.attempts[run.id]

    def _leased(self, epoch: int | None) -> None:
        if epoch is None:  # nothing that is held may take effect any more
            self._stop_all("lost")
        else:
            self._room.set()

    def _stop_all(self, reason: Reason) -> None:
        for attempt in self.attempts.values():
            attempt.stop(reason)

    def _tell(self) -> None:
        """Wake who follows runs, who holds them, and who reads the journal."""
        self._wake.send("runs")
        self._wake.send("journal")


@asynccontextmanager
async def open_worker(
    stores: Stores,
    works: Mapping[str, Work],
    wake: Wake,
    *,
    concurrency: int = CONCURRENCY,
    timing: Timing | None = None,
    idling: Idling | None = None,
    marks: Sequence[MarkStore] = (),
) -> AsyncGenerator[Worker]:
    """Yield a worker for the kinds of run in `works`; on the way out it hands back what still runs.

    `idling` counts the runs that wait for others; whoever waits on their behalf counts them there.
    `marks` are the stores that must be told when an attempt at a run is over.
    """
    worker = Worker(
        stores,
        works,
        wake,
        concurrency=concurrency,
        timing=timing or Timing(),
        idling=idling or Idling(),
        marks=Marks(marks),
    )
    async with worker.running():
        yield worker


def _spawn(coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    return asyncio.create_task(coroutine, name=f"runs: {name}")


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
