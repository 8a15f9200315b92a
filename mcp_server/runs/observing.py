"""Tells observers of the runs that were claimed or ended in this process, after the transaction that did it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.runs.queue_statements import ended_runs
from mcp_server.runs.record import Run
from mcp_server.runs.transition import run_of


class Observing:
    """The observers of one queue; none of them may block."""

    def __init__(self, control: AsyncEngine) -> None:
        self._at_once = control.execution_options(isolation_level="AUTOCOMMIT")
        self.observers: list[Callable[[Run], None]] = []

    def tell(self, run: Run) -> Run:
        """Tell of a run, and return it."""
        for observer in self.observers:
            observer(run)
        return run

    async def tell_ends(self, runs: Sequence[str]) -> None:
        """Tell of runs that have ended otherwise than by their work: cancelled, expired, given up."""
        if not runs or not self.observers:
            return
        async with self._at_once.connect() as connection:
            for row in await connection.execute(ended_runs(runs)):
                self.tell(run_of(row))
