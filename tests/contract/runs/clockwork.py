"""What fires schedules and triggers, as one process has it, over a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.operation import Operations
from mcp_server.policy import Verb
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.record import Run
from mcp_server.services.agents import AgentService
from mcp_server.services.kv import KvService
from mcp_server.services.schedules import ScheduleService
from mcp_server.services.standing_work import WorkStarter
from mcp_server.services.triggers import TriggerService
from mcp_server.storage.sql.run_tables import runs, schedules, triggers
from tests.contract.runs.engine import record


@dataclass
class Import:
    """The declaration of a long tool."""

    verb: Verb = "write"
    egress: bool = False

    def check(self, arguments: dict[str, Any]) -> None:
        if set(arguments) - {"source", "changes"}:
            raise InvalidInput("import has no such argument")


class Queue:
    """The real queue; `before` may break a transaction off, as a killed process does."""

    def __init__(self, control: AsyncEngine) -> None:
        self._queue = RunQueue(control, record)
        self.broken: Callable[[], None] = lambda: None

    async def create(self, run: Run, tx: AsyncConnection | None = None) -> tuple[Run, bool]:
        created = await self._queue.create(run, tx)
        self.broken()
        return created


async def no_tools(_: Principal) -> list[Any]:
    return []


class Clockwork:
    """One process."""

    def __init__(self, operations: Operations, control: AsyncEngine) -> None:
        self.control = control
        self.queue = Queue(control)
        self.kv = KvService(operations, control)
        self.agents = AgentService(
            operations, control, models=ScriptedModel().models, tools=no_tools
        )
        self.tools: dict[str, Import] = {"import": Import()}
        starter = WorkStarter(operations, self.tools.get, lambda _: 3600.0)
        self.told = 0
        made = (operations, control, self.queue, starter, self._tell)
        self.schedules, self.triggers = ScheduleService(*made), TriggerService(*made)

    def _tell(self) -> None:
        self.told += 1

    async def helper(self, principal: Principal, **fields: Any) -> None:
        await self.agents.save(principal, "helper", **{"instructions": "Be brief.", **fields})

    async def runs(self, principal: Principal, origin: str | None = None) -> list[Any]:
        """Return the runs of a tenant, the oldest first."""
        query = select(runs).where(runs.c.tenant == principal.tenant).order_by(runs.c.created_at)
        if origin is not None:
            query = query.where(runs.c.origin == origin)
        async with self.control.connect() as tx:
            return list((await tx.execute(query)).all())

    async def ticks(self, principal: Principal, item: Any) -> list[datetime]:
        """Return the ticks that started a run of a schedule, in order; a doubled one stands twice."""
        found = await self.runs(principal, f"schedule/{item['id']}")
        return sorted(datetime.fromisoformat(run.dedupe_key.split("/", 2)[2]) for run in found)

    async def end_runs(self, principal: Principal) -> None:
        async with self.control.begin() as tx:
            await tx.execute(
                text(
                    "update runs set status = 'cancelled', ended_at = clock_timestamp()"
                    " where tenant = :tenant and status = 'queued'"
                ),
                {"tenant": principal.tenant},
            )


@asynccontextmanager
async def open_clockwork(operations: Operations, control: AsyncEngine) -> AsyncIterator[Clockwork]:
    """Yield one process; afterwards no schedule and no trigger is left for the next test."""
    try:
        yield Clockwork(operations, control)
    finally:
        async with control.begin() as tx:
            for table in (schedules, triggers):
                await tx.execute(delete(table))
