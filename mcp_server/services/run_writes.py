"""What a run and the runs below it wrote, as the journal and their events tell it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from sqlalchemy import Integer, Row, Text, bindparam, func, not_, or_, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.errors import Conflict, LimitExceeded
from mcp_server.function_names import function_name
from mcp_server.runs.record import ENDED, Run
from mcp_server.runs.timed_events import timed_events
from mcp_server.services.run_results import TOOL_KIND
from mcp_server.storage.sql.schema import journal

MOST_RUNS = 1000
MOST_ENTRIES = 10_000
# Of what others wrote to one thing since; what is older only ends a chain sooner.
MOST_OTHERS = 100

_FAMILY = text(
    """
    with recursive family (id, kind, status, created_at) as (
        select id, kind, status, created_at from runs where tenant = :tenant and id = :run
        union
        select child.id, child.kind, child.status, child.created_at
        from runs child join family on child.origin = 'run://' || family.id
        where child.tenant = :tenant
    )
    select id, kind, status from family order by created_at, id limit :most
    """
).bindparams(
    bindparam("tenant", type_=Text()),
    bindparam("run", type_=Text()),
    bindparam("most", type_=Integer()),
)

Entries = Mapping[str, Sequence[Row[Any]]]


class RunWrites:
    """Reads the journal; `outward` names the tools that send something out of this server."""

    def __init__(self, control: AsyncEngine, outward: Collection[str]) -> None:
        self._control = control
        self._outward = {function_name(name): name for name in outward}

    async def family(self, run: Run) -> dict[str, str]:
        """Return the kinds of a run and of all that it began, and what these began, by their ids.

        Raises:
            Conflict: one of them has not ended. LimitExceeded: they are over 1,000.
        """
        given = {"tenant": run.tenant, "run": run.id, "most": MOST_RUNS + 1}
        async with self._control.connect() as connection:
            found = (await connection.execute(_FAMILY, given)).all()
        for each in found:
            if each.status not in ENDED:
                whose = "" if each.id == run.id else f", which {run.id} began,"
                raise Conflict(
                    f"run {each.id}{whose} has not ended, it is {each.status}: end it first, with "
                    "run_cancel",
                    param="run",
                )
        if len(found) > MOST_RUNS:
            raise LimitExceeded(
                f"run {run.id} began more than the {MOST_RUNS} runs that are undone at once; undo those "
                "that run_list finds with parent first",
                param="run",
            )
        return {each.id: each.kind for each in found}

    async def entries(self, run: Run, family: Collection[str]) -> Entries:
        """Return, for each URI that the runs wrote, what was written there since, oldest first.

        Raises:
            LimitExceeded: the runs wrote more than 10,000 times.
        """
        since = (journal.c.tenant == run.tenant, journal.c.at >= run.created_at)
        in_order = (journal.c.xid, journal.c.seq)
        own = journal.c.run.in_(family)
        written = not_(func.starts_with(journal.c.uri, "run://"))  # how the runs themselves went
        query = select(journal).where(*since, own, written).order_by(*in_order)
        async with self._control.connect() as connection:
            theirs = (await connection.execute(query.limit(MOST_ENTRIES + 1))).all()
            if len(theirs) > MOST_ENTRIES:
                raise LimitExceeded(
                    f"run {run.id} wrote more than the {MOST_ENTRIES} times that are undone at once; find "
                    "its changes with changes, and undo them one by one",
                    param="run",
                )
            uris = {entry.uri for entry in theirs}
            newest_first = [column.desc() for column in in_order]
            place = func.row_number().over(partition_by=journal.c.uri, order_by=newest_first)
            ranked = (
                select(journal, place.label("place"))
                .where(*since, journal.c.uri.in_(uris), or_(journal.c.run.is_(None), not_(own)))
                .subquery()
            )
            others = await connection.execute(select(ranked).where(ranked.c.place <= MOST_OTHERS))
            everything = [*theirs, *others]
        everything.sort(key=_position)
        found: dict[str, list[Row[Any]]] = defaultdict(list)
        for entry in everything:
            found[entry.uri].append(entry)
        return found

    async def sent_out(self, family: Mapping[str, str]) -> AsyncGenerator[str]:
        """Yield the tools that the runs called or were, of those that send something out."""
        for run, kind in family.items():
            if kind.startswith(TOOL_KIND):
                names = {function_name(kind.removeprefix(TOOL_KIND))}
            else:
                names = await self._called(run)
            for name in sorted(names & self._outward.keys()):
                yield self._outward[name]

    async def _called(self, run: str) -> set[str]:
        called: set[str] = set()
        async with aclosing(timed_events(self._control, run)) as pages:
            async for page in pages:
                called |= {event["name"] for _, event in page if event["type"] == "tool_started"}
        return called


def _position(entry: Row[Any]) -> tuple[int, int]:
    return int(entry.xid), int(entry.seq)
