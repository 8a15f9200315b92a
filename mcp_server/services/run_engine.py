"""The run engine's parts over one control database, put together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import journal
from mcp_server.operation import Operations
from mcp_server.runs.events import RunEvents
from mcp_server.runs.following import open_following
from mcp_server.runs.leases import Leases
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.redaction import Redaction
from mcp_server.runs.steps import RunSteps
from mcp_server.runs.stores import Stores
from mcp_server.runs.sweep import Sweep
from mcp_server.runs.transition import Change
from mcp_server.services.runs import RunService
from mcp_server.storage.sql.wake import Wake


def run_stores(control: AsyncEngine, heartbeat: AsyncEngine, redact: Sequence[str] = ()) -> Stores:
    """Return the stores of a process; its lease is renewed over `heartbeat`.

    `redact` names the fields whose values are taken out of what ended runs keep.
    """
    record = RunJournal()
    queue = RunQueue(control, record)
    return Stores(
        queue=queue,
        events=RunEvents(control),
        steps=RunSteps(control),
        leases=Leases(control, record, tell_ends=queue.observing.tell_ends),
        heartbeat=Leases(heartbeat, record),
        sweep=Sweep(control, record, Redaction(frozenset(redact)), queue.observing.tell_ends),
    )


@asynccontextmanager
async def open_runs(
    operation: Operations,
    control: AsyncEngine,
    stores: Stores,
    wake: Wake,
    ttl_of: Callable[[str], float | None] = lambda _: None,
) -> AsyncGenerator[RunService]:
    """Yield the service of runs; a worker, here or in another process, executes them."""
    async with open_following(stores.events, wake) as following:
        yield RunService(operation, control, stores.queue, stores.events, following, wake, ttl_of)


class RunJournal:
    """Journals what becomes of runs."""

    def statement(self, moved: str) -> str:
        """Return the INSERT for each row of the relation `moved`: its id, tenant, subject, new status."""
        return f"""
            insert into journal (tenant, subject, verb, uri, run, labels)
            select tenant, subject, status, 'run://' || id, id, '{{}}' from {moved}
        """  # noqa: S608  a name of our own

    async def __call__(self, connection: AsyncConnection, changes: Sequence[Change]) -> None:
        """Write one entry for each change, in one round trip."""
        entries: list[dict[str, Any]] = [
            {
                "tenant": change.tenant,
                "subject": change.subject,
                "verb": change.status,
                "uri": f"run://{change.run}",
                "version": None,
                "prev_version": None,
                "run": change.run,
                "step": None,
                "labels": [],
            }
            for change in changes
        ]
        await journal.append_all(connection, entries)
