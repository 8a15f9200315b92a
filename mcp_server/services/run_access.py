"""Who may reach which run: policy on `run://ID`, and whoever started one by its right to what it runs."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import ColumnElement, and_, func, or_

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound, Unavailable
from mcp_server.operation import Operation, Operations
from mcp_server.policy import Listing, Verb
from mcp_server.runs.outage import OUTAGE, passes
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.record import Run
from mcp_server.services.run_results import BATCH_KIND, INGESTION_KIND, RESPONSE_KIND, TOOL_KIND
from mcp_server.storage.sql.run_tables import runs

_RUN_ID = re.compile(r"run_[0-9a-f]{32}")
_SHOWN = 80


class RunAccess:
    """Opens the operations on runs."""

    def __init__(self, operation: Operations, queue: RunQueue) -> None:
        self._operation = operation
        self._queue = queue

    @asynccontextmanager
    async def opening(
        self, principal: Principal, verb: Verb, run: str
    ) -> AsyncGenerator[tuple[Operation, Run]]:
        """Open one operation on a run and load it.

        Raises:
            NotFound: there is no such run in this tenant; a foreign one answers alike.
        """
        uri = f"run://{run[:_SHOWN]}"
        if not policy.allows(principal, verb, uri):
            found = await self.find(principal.tenant, run)
            if found is not None and _started(found, principal):
                verb, uri = target_of(found)
        async with self._operation(principal, verb, uri) as op:
            yield op, await self.load(principal.tenant, run)

    async def load(self, tenant: str, run: str) -> Run:
        """Read a run, for an operation that is already open.

        Raises:
            NotFound: there is no such run in this tenant.
        """
        found = await self.find(tenant, run)
        if found is None:
            raise NotFound(f"run {run[:_SHOWN]!r} does not exist", param="run")
        return found

    async def find(self, tenant: str, run: str) -> Run | None:
        """Look for a run, also outside an operation.

        Raises:
            Unavailable: the control database is away.
        """
        if not _RUN_ID.fullmatch(run):
            return None
        try:
            return await self._queue.load(tenant, run)
        except OUTAGE as error:
            if not passes(error):
                raise
            raise Unavailable("an engine does not answer; try again") from error


def listing(principal: Principal) -> tuple[Verb, str]:
    """Return what policy is asked for before a list: whoever may run something sees its own runs."""
    if not policy.allows(principal, "read", Listing("run://")):
        for uri in policy.granted(principal, "run") or ():
            if uri.startswith(("agent://", "tool://")):
                return "run", uri.removesuffix("*")
    return "read", Listing("run://")


def visible(principal: Principal) -> list[ColumnElement[bool]]:
    """Return the condition on `runs` that a list adds: what policy shows, and what this key started."""
    shown = policy.scope(principal, "read", "run").within("run://")
    if shown is None:
        return []
    own = and_(
        runs.c.subject == principal.subject, runs.c.key_id.is_not_distinct_from(principal.key_id)
    )
    return [or_(own, *(func.starts_with(runs.c.id, prefix) for prefix in shown))]


def begun_by(parent: str | None) -> list[ColumnElement[bool]]:
    """Return the condition on `runs` of those that a run began; none without a run."""
    return [] if parent is None else [runs.c.origin == f"run://{parent}"]


def target_of(run: Run) -> tuple[Verb, str]:
    """Return what was decided when the run was started: the verb, and the URI of what it runs."""
    if run.kind == RESPONSE_KIND:
        return "run", run.definition["uri"]
    if run.kind in {BATCH_KIND, INGESTION_KIND}:
        return run.definition["verb"], run.definition["uri"]
    if run.kind.startswith(TOOL_KIND):
        return run.definition["verb"], f"tool://{run.kind.removeprefix(TOOL_KIND)}"
    return "run", f"agent://{run.agent}"


def _started(run: Run, principal: Principal) -> bool:
    return (run.subject, run.key_id) == (principal.subject, principal.key_id)
