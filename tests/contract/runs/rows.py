"""The stores of the run engine over one control database, and short ways to bring runs into any status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.runs.events import RunEvents
from mcp_server.runs.leases import Leases
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.record import Event, Outcome, Run, new_run_id
from mcp_server.runs.steps import RunSteps
from mcp_server.runs.sweep import Sweep
from mcp_server.services.run_engine import RunJournal
from mcp_server.storage.sql.schema import journal as entries

COMPLETED = Outcome(status="completed", output="done")
QUESTION = {"id": "req_1", "kind": "question", "message": "sure?", "schema": None}

record = RunJournal()


@dataclass
class Rows:
    """All stores, the tenant that the runs belong to, and a kind that only this test claims."""

    control: AsyncEngine
    tenant: str
    kind: str = field(default_factory=lambda: f"tool/{new_run_id()}")
    taken: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = RunQueue(self.control, record)
        self.leases = Leases(self.control, record)
        self.events = RunEvents(self.control)
        self.steps = RunSteps(self.control)
        self.sweep = Sweep(self.control, record)

    def another(self) -> Rows:
        """Return the same with another kind: nothing that was left in the queue is claimed."""
        return Rows(self.control, self.tenant, taken=self.taken)

    def run(self, **fields: Any) -> Run:
        base: dict[str, Any] = {
            "id": new_run_id(),
            "tenant": self.tenant,
            "subject": "tester",
            "key_id": None,
            "grant": frozenset({"read:*"}),
            "kind": self.kind,
            "input": {"n": 1},
        }
        return Run(**base | fields)

    async def create(self, **fields: Any) -> Run:
        return (await self.queue.create(self.run(**fields)))[0]

    async def take(self, slots: int = 8) -> int:
        self.taken.append(await self.leases.take("tester", slots))
        return self.taken[-1]

    async def claim(self, epoch: int, slots: int = 8, share: int = 1000) -> list[Run]:
        return await self.queue.claim(epoch, [self.kind], slots, share)

    async def running(self, **fields: Any) -> tuple[Run, int]:
        """Return a run that is running, and the lease that holds it."""
        created = await self.create(**fields)
        epoch = await self.take()
        (claimed,) = await self.claim(epoch)
        assert claimed.id == created.id
        return claimed, epoch

    async def waiting(self, request: dict[str, Any] = QUESTION, **fields: Any) -> Run:
        """Return a run that waits for input."""
        run, epoch = await self.running(**fields)
        assert await self.queue.suspend(run.id, epoch, "ask/1", request)
        return await self.load(run)

    async def in_status(self, status: Any, **fields: Any) -> Run:
        """Return a run in any status."""
        if status == "queued":
            return await self.load(await self.create(**fields))
        if status == "input_required":
            return await self.waiting(**fields)
        run, epoch = await self.running(**fields)
        if status != "running":
            assert await self.queue.end(run.id, epoch, Outcome(status=status)) is not None
        return await self.load(run)

    async def load(self, run: Run) -> Run:
        found = await self.queue.load(self.tenant, run.id)
        assert found is not None
        return found

    async def told(self, run: Run) -> list[Event]:
        """Return every event of a run; their numbers are 1, 2, 3, … up to the row's."""
        events, status = await self.events.read(run.id, 0, 1000)
        while more := (await self.events.read(run.id, len(events), 1000))[0]:
            events += more
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        stored = await self.load(run)
        assert (stored.last_seq, stored.status) == (len(events), status)
        return [{name: event[name] for name in event if name != "seq"} for event in events]

    async def journalled(self, run: Run) -> list[str]:
        """Return the statuses that the journal tells of a run, in their order."""
        query = select(entries.c.verb).where(
            entries.c.tenant == self.tenant, entries.c.run == run.id
        )
        async with self.control.connect() as connection:
            return list(await connection.scalars(query.order_by(entries.c.seq)))

    async def silence(self, epoch: int) -> None:
        """Let a lease expire now."""
        await self.execute(
            "update run_leases set expires_at = clock_timestamp() - interval '1 s' "
            "where epoch = :epoch",
            epoch=epoch,
        )

    async def execute(self, statement: str, **given: Any) -> None:
        async with self.control.begin() as connection:
            await connection.execute(text(statement), given)

    async def scalar(self, statement: str, **given: Any) -> Any:
        async with self.control.connect() as connection:
            return await connection.scalar(text(statement), given)
