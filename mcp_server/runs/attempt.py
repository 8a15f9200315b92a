"""One attempt at a run: its work beside its event log, until it ends, is stopped, or waits for an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from mcp_server.errors import Unavailable
from mcp_server.runs.context import Asked, RunContext, Work
from mcp_server.runs.ending import FAILED, Ending, Retry, ending_of, timed_out
from mcp_server.runs.event_log import EventLog
from mcp_server.runs.intervals import Timing
from mcp_server.runs.marks import Marks
from mcp_server.runs.outage import OUTAGE, through_outage
from mcp_server.runs.record import Outcome, Run
from mcp_server.runs.stores import Stores

logger = logging.getLogger(__name__)

PUT_OFF_SECONDS = 10.0

Reason: TypeAlias = Literal["cancelled", "drained", "put off", "lost"]
_End: TypeAlias = Ending | Asked | Reason


class Attempt:
    """Executes one claimed run.

    Whatever becomes of it is one transaction under the lease's epoch: a run that is not ours any
    more takes nothing from us.
    """

    def __init__(
        self,
        run: Run,
        epoch: int,
        stores: Stores,
        timing: Timing,
        *,
        leased: Callable[[], bool],
        tell: Callable[[], None],
        marks: Marks,
    ) -> None:
        self.run = run
        self._epoch = epoch
        self._stores = stores
        self._timing = timing
        self._leased = leased
        self._tell = tell
        self._marks = marks
        self._stopped: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()

    def stop(self, reason: Reason) -> None:
        """End the attempt early; the first reason counts."""
        if not self._stopped.done():
            self._stopped.set_result(reason)

    async def perform(self, work: Work) -> None:
        """Do the run's work and store how it ended."""
        try:
            await self._perform(work)
        except (
            Exception
        ):  # a defect of the engine's own: a run must not be tried for ever because of it
            logger.exception("run %s: its attempt broke off", self.run.id)
            await self._store(FAILED)

    async def _perform(self, work: Work) -> None:
        run, stores = self.run, self._stores
        states = await through_outage(lambda: stores.steps.load(run.id)) if run.attempt > 1 else {}
        if self._stopped.done():
            await self._store(self._stopped.result())
            return
        log = EventLog(run.id, self._epoch, run.last_seq, stores.events, stores.steps, self._tell)
        context = RunContext(run, self._epoch, log, stores.steps, states, leased=self._leased)
        if context.resumed:
            context.emit({"type": "resumed", "attempt": run.attempt})
        writing = asyncio.create_task(log.write(), name=f"{run.id} events")
        working = asyncio.create_task(self._work(work, context), name=run.id)
        try:
            end = await self._end_of(working, writing, context.parting)
            log.close()
            if end != "lost" and await self._written(writing):
                await self._store(end)
        finally:
            await self._clear(working, writing)

    async def _work(self, work: Work, context: RunContext) -> Outcome:
        run = self.run
        if context.resumed:  # an earlier attempt may still be in the middle of a statement
            try:
                await self._marks.raise_fences(run.id, run.attempt)
            except Unavailable as error:
                logger.warning("run %s is put off: a store of effects is away (%s)", run.id, error)
                self.stop("put off")
                await asyncio.get_running_loop().create_future()
        return await work(context)

    async def _end_of(
        self,
        working: asyncio.Task[Outcome],
        writing: asyncio.Task[bool],
        parting: asyncio.Future[Asked | Literal["lost"]],
    ) -> _End:
        """Wait for whatever ends the attempt first, and stop the work if that was something else."""
        await asyncio.wait(
            {working, writing, parting, self._stopped},
            timeout=self.run.timeout_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if working.done():
            return ending_of(self.run, working, self._timing)
        working.cancel()
        await asyncio.wait({working}, timeout=self._timing.halt)
        if writing.done():
            return FAILED if writing.exception() else "lost"
        if self._stopped.done():
            return self._stopped.result()
        return parting.result() if parting.done() else timed_out(self.run)

    async def _written(self, writing: asyncio.Task[bool]) -> bool:
        """Return when every event is stored; False if the run is not ours any more."""
        try:
            return await writing
        except OUTAGE:  # the database refused an event; its end can be told all the same
            logger.exception("run %s: its events could not be stored", self.run.id)
            return True

    async def _store(self, end: _End) -> None:
        await through_outage(lambda: self._send(end))
        self._tell()

    async def _send(self, end: _End) -> None:
        queue, run, attempt = self._stores.queue, self.run.id, self.run.attempt
        match end:
            case Asked(step, request):
                await queue.suspend(run, self._epoch, step, request, attempt=attempt)
            case Retry(delay, error):
                await queue.hand_back(
                    run,
                    self._epoch,
                    attempt=attempt,
                    retry=True,
                    delay_seconds=delay,
                    error=error,
                )
            case "drained":
                await queue.hand_back(run, self._epoch, attempt=attempt)
            case "put off":
                delay = PUT_OFF_SECONDS
                await queue.hand_back(run, self._epoch, attempt=attempt, delay_seconds=delay)
            case "lost":
                pass
            case _:
                outcome = Outcome(status="cancelled") if end == "cancelled" else end
                await queue.end(run, self._epoch, outcome)

    async def _clear(self, *tasks: asyncio.Task[Any]) -> None:
        for task in tasks:
            task.cancel()
        ended, stuck = await asyncio.wait(tasks, timeout=self._timing.stop)
        for task in stuck:
            logger.error("run %s: %s does not heed its cancellation", self.run.id, task.get_name())
        await asyncio.gather(*ended, return_exceptions=True)
