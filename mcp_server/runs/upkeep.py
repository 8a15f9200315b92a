"""What one worker does for all runs: takes over from the dead, ends what is out of time, tidies what has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mcp_server.errors import Unavailable
from mcp_server.runs.heartbeat import Heartbeat
from mcp_server.runs.leases import Leases
from mcp_server.runs.marks import Marks
from mcp_server.runs.sweep import Sweep

logger = logging.getLogger(__name__)


class Upkeep:
    """The keeper's work; several may do the same at once. `tell` is called when something changed."""

    def __init__(
        self,
        leases: Leases,
        sweep: Sweep,
        marks: Marks,
        heartbeat: Heartbeat,
        tell: Callable[[], None],
    ) -> None:
        self._leases = leases
        self._sweep = sweep
        self._marks = marks
        self._heartbeat = heartbeat
        self._tell = tell

    async def sweep(self) -> None:
        """End the runs of dead keys and those past their time, and take leases that expired away."""
        if not self._heartbeat.keeper:
            return
        changed = await self._sweep.sweep()
        epoch = self._heartbeat.epoch
        if epoch is not None and self._heartbeat.steady():
            taken = await self._leases.reap(epoch)
            for run in taken:
                logger.warning("run %s: its worker is gone, another one takes it over", run)
            changed += taken
        if changed:
            self._tell()

    async def tidy(self) -> None:
        """Compact the events of runs that have ended, and delete what nobody may want any more."""
        if not self._heartbeat.keeper:
            return
        try:
            await self._sweep.compact(self._marks.close)
        except Unavailable as error:
            logger.warning("ended runs stay as they are for now (%s)", error)
        await self._sweep.purge()
        await self._marks.purge()
