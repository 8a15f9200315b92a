"""Firing schedules: each tick starts its run once, however many processes look."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Row, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import InvalidInput
from mcp_server.runs.outage import passes
from mcp_server.runs.record import Run, new_run_id
from mcp_server.runs.standing import (
    Creates,
    Standing,
    Starter,
    Stop,
    Stopped,
    live_runs,
    scopes_now,
    standing,
    stop,
)
from mcp_server.runs.timing import Decision, Timing, decide, fires_at, parse_timing
from mcp_server.storage.sql.run_tables import schedules
from mcp_server.timestamps import iso

logger = logging.getLogger(__name__)

# A transaction that started more would hold back the readers of the journal.
MOST_AT_ONCE = 100
# One schedule whose runs nobody executes must not fill the queue.
MOST_LIVE = 1000
MOST_PER_PASS = 1000

_NOW = func.coalesce(bindparam("now", type_=TIMESTAMP(timezone=True)), func.clock_timestamp())
_DUE = (
    select(schedules, _NOW.label("now"))
    .where(schedules.c.enabled, schedules.c.next_fire_at <= _NOW)
    .where(schedules.c.id.not_in(bindparam("broken", expanding=True)))
    .order_by(schedules.c.next_fire_at)
    .limit(1)
    .with_for_update(skip_locked=True)
)


Fired: TypeAlias = tuple[datetime, str]
"""A tick and the run that it started."""


@dataclass(frozen=True, slots=True)
class Firing:
    """What fires schedules: the queue that runs go to, and who decides what a fire starts."""

    queue: Creates
    starter: Starter
    stopped: Stopped


async def fire_due(control: AsyncEngine, firing: Firing, now: datetime | None = None) -> int:
    """Fire every schedule that is due and return how many runs were started.

    One transaction a schedule: its row's lock, the runs of its ticks and its next tick. So whatever
    dies where, each tick is fired once, or left out once if its policy says so. `now` is for trials;
    without it the database's clock counts.
    """
    started, broken = 0, list[str]()
    for _ in range(MOST_PER_PASS):
        row = None
        try:
            async with control.begin() as tx:
                row = (await tx.execute(_DUE, {"now": now, "broken": broken})).first()
                if row is None:
                    break
                started += await _fire_or_stop(tx, firing, row)
        except Exception as error:  # a defect that one schedule meets must not keep the others
            if row is None or passes(error):
                raise
            logger.exception("schedule %s of %s was not fired", row.name, row.tenant)
            broken.append(row.id)
    return started


async def _fire_or_stop(tx: AsyncConnection, firing: Firing, row: Row[Any]) -> int:
    found = standing(row, "schedule")
    try:
        # Before anything is written: what stops the schedule leaves nothing half done.
        timing = parse_timing(row.timing)
        decision = decide(timing, row.missed, row.next_fire_at, row.now, most=MOST_AT_ONCE)
        run = None
        if decision.fire:
            run = await firing.starter.prepare(tx, found, await scopes_now(tx, found.owner), None)
    except (Stop, InvalidInput) as error:
        reason = error.reason if isinstance(error, Stop) else error.message
        logger.warning("schedule %s of %s stops: %s", found.name, found.owner.tenant, reason)
        await stop(tx, schedules, "schedule", found, reason, firing.stopped)
        return 0
    if decision.dropped:
        logger.warning("schedule %s of %s: older ticks are lost", found.name, found.owner.tenant)
    fired = [] if run is None else await _start(tx, firing.queue, found, timing, decision, run)
    await _advance(tx, found, decision.next, fired)
    return len(fired)


async def _start(
    tx: AsyncConnection,
    queue: Creates,
    found: Standing,
    timing: Timing,
    decision: Decision,
    run: Run,
) -> list[Fired]:
    live = await live_runs(tx, found.owner.tenant, found.origin, MOST_LIVE)
    room = max((1 if timing.overlap == "skip" else MOST_LIVE) - live, 0)
    if room < len(decision.fire) and timing.overlap == "queue":
        told = (found.name, found.owner.tenant, live)
        logger.warning("schedule %s of %s: ticks are left out, %d runs live", *told)
    fired: list[Fired] = []
    for tick in decision.fire[:room]:
        waits = timing.jitter_seconds > 0
        fresh = replace(
            run,
            id=new_run_id(),
            origin=found.origin,
            dedupe_key=f"{found.origin}/{iso(tick)}",
            not_before=fires_at(timing, seed(found.owner.tenant, found.name), tick)
            if waits
            else None,
        )
        made, created = await queue.create(fresh, tx=tx)
        if created:
            fired.append((tick, made.id))
    return fired


async def _advance(
    tx: AsyncConnection, found: Standing, following: datetime | None, fired: list[Fired]
) -> None:
    values: dict[str, Any] = {"next_fire_at": following}
    if fired:
        values["last_fire_at"], values["last_run"] = fired[-1]
    await tx.execute(update(schedules).where(schedules.c.id == found.id).values(values))


def seed(tenant: str, name: str) -> str:
    """Return what the jitter of a schedule is computed from: the same before and after its save."""
    return f"{tenant}/{name}"
