"""Firing triggers: each follows the journal from a position of its own, and starts a run for what it saw."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Row, bindparam, cast, func, literal, select, text, update
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
from mcp_server.storage.sql.run_tables import triggers
from mcp_server.storage.sql.schema import Xid8
from mcp_server.timestamps import iso

logger = logging.getLogger(__name__)

MOST_DEBOUNCE_SECONDS = 86_400
# However often something changes, the first change waits no longer than so many debounces.
MOST_DEBOUNCES = 10
MOST_CHANGES = 100
# Beyond so many live runs of one trigger, its changes are gathered until some have ended.
MOST_LIVE = 100
BATCH = 1000
_MOST_ROUNDS = 100

_AT = TIMESTAMP(timezone=True)
_NOW = func.coalesce(bindparam("now", type_=_AT), func.clock_timestamp())

# One statement, and one look into the index of the journal for each tenant that has triggers.
_NEWS = text(
    """
    with live as materialized (
        select id, tenant, position_xid, position_seq, fire_at from triggers
        where enabled and stopped is null),
    heads as materialized (
        select own.tenant, newest.xid, newest.seq
        from (select distinct tenant from live) own, lateral (
            select xid, seq from journal
            where tenant = own.tenant and xid < pg_snapshot_xmin(pg_current_snapshot())
            order by xid desc, seq desc limit 1) newest)
    select live.id from live left join heads using (tenant)
    where fire_at <= coalesce(:now, clock_timestamp())
        or (heads.xid, heads.seq) > (position_xid, position_seq)
    order by fire_at nulls last
    """
).bindparams(bindparam("now", type_=_AT))
_HELD = (
    select(triggers, _NOW.label("now"))
    .where(triggers.c.id == bindparam("id"), triggers.c.enabled, triggers.c.stopped.is_(None))
    .with_for_update(skip_locked=True)
)
# A run that a run of the trigger started is its work as well.
_OWN = text(
    """
    with recursive up as (
        select id as leaf, origin from runs where id = any(:runs)
        union
        select up.leaf, runs.origin from up join runs on runs.id = substr(up.origin, 7)
        where starts_with(up.origin, 'run://'))
    select distinct leaf from up where origin = :origin
    """
)


class Condition(BaseModel):
    """Which changes count: a URI, or with a `*` at its end a prefix; and verbs, all if none is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: str = Field(max_length=1100, pattern=r"^[a-z]+://[^*]*\*?$")
    verbs: tuple[Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")], ...] = Field(
        default=(), max_length=16
    )

    def admits(self, uri: str, verb: str) -> bool:
        if self.verbs and verb not in self.verbs:
            return False
        return uri.startswith(self.uri[:-1]) if self.uri.endswith("*") else uri == self.uri


def parse_condition(given: Mapping[str, Any]) -> Condition:
    """Read a condition: `{uri, verbs}`.

    Raises:
        InvalidInput: a field does not fit.
    """
    try:
        return Condition.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        field = "condition." + ".".join(str(part) for part in first["loc"])
        raise InvalidInput(
            f"{field}: {first['msg']}; give for example "
            '{"uri": "kv://default/jobs/*", "verbs": ["write"]}',
            param="condition",
        ) from error


Read: TypeAlias = Callable[
    [AsyncConnection, str, tuple[int, int], int], Awaitable[Sequence[Row[Any]]]
]
"""Return up to so many journal entries of a tenant after a position, oldest first."""


@dataclass(frozen=True, slots=True)
class Following:
    """What fires triggers: the journal, the queue that runs go to, and who decides what a fire starts."""

    read: Read
    queue: Creates
    starter: Starter
    stopped: Stopped


async def fire_triggers(
    control: AsyncEngine, following: Following, now: datetime | None = None
) -> int:
    """Let every trigger see what is new, fire those whose time has come; return how many runs were started.

    One transaction a trigger: its row's lock, its position, what it gathered and the run. So each
    change counts once, whatever dies where. `now` is for trials; without it the database's clock counts.
    """
    started = 0
    for _ in range(_MOST_ROUNDS):
        async with control.connect() as tx:
            news = list(await tx.scalars(_NEWS, {"now": now}))
        behind = False
        for trigger in news:
            try:
                async with control.begin() as tx:
                    row = (await tx.execute(_HELD, {"id": trigger, "now": now})).first()
                    if row is not None:  # else another process is at it
                        fired, more = await _look_or_stop(tx, following, row)
                        started, behind = started + fired, behind or more
            except Exception as error:  # a defect that one trigger meets must not keep the others
                if passes(error):
                    raise
                logger.exception("trigger %s was not looked at", trigger)
        if not behind:
            break
    return started


async def _look_or_stop(
    tx: AsyncConnection, following: Following, row: Row[Any]
) -> tuple[int, bool]:
    found = standing(row, "trigger")
    try:
        return await _look(tx, following, found, row)
    except (Stop, InvalidInput) as error:
        reason = error.reason if isinstance(error, Stop) else error.message
        logger.warning("trigger %s of %s stops: %s", found.name, found.owner.tenant, reason)
        await stop(tx, triggers, "trigger", found, reason, following.stopped)
        return 0, False


async def _look(
    tx: AsyncConnection, following: Following, found: Standing, row: Row[Any]
) -> tuple[int, bool]:
    """Gather what is new, fire if it is time, and move on; nothing is written before all is decided."""
    owner, start = found.owner, (int(row.position_xid), int(row.position_seq))
    scopes = await scopes_now(tx, owner)
    entries = await following.read(tx, owner.tenant, start, BATCH)
    condition, rights = parse_condition(row.condition), following.starter.rights(owner, scopes)
    fitting = [
        entry
        for entry in entries
        if condition.admits(entry.uri, entry.verb) and rights.may_read(entry.uri, entry.labels)
    ]
    own = await _own_runs(tx, found.origin, fitting)
    new = [entry for entry in fitting if entry.run not in own]
    gathered = _gather(row.pending, start, row.now, new)
    fire_at = _fire_at(gathered, row.now, row.debounce_seconds) if new else row.fire_at
    end = (int(entries[-1].xid), int(entries[-1].seq)) if entries else start
    values: dict[str, Any] = {
        "position_xid": cast(literal(str(end[0])), Xid8()),
        "position_seq": end[1],
        "pending": gathered,
        "fire_at": fire_at,
    }
    run = None
    if gathered is not None and fire_at is not None and fire_at <= row.now:
        run = await _run(tx, following.starter, found, scopes, gathered)
    if run is not None:
        fresh = replace(run, dedupe_key=f"{found.origin}/{end[0]}.{end[1]}")
        started, _ = await following.queue.create(fresh, tx=tx)
        values |= {"pending": None, "fire_at": None, "last_fire_at": row.now}
        values["last_run"] = started.id
    await tx.execute(update(triggers).where(triggers.c.id == found.id).values(values))
    return int(run is not None), len(entries) == BATCH


async def _run(
    tx: AsyncConnection,
    starter: Starter,
    found: Standing,
    scopes: frozenset[str],
    gathered: dict[str, Any],
) -> Run | None:
    if await live_runs(tx, found.owner.tenant, found.origin, MOST_LIVE) >= MOST_LIVE:
        return None
    changes = {name: gathered[name] for name in ("count", "after", "changes")}
    run = await starter.prepare(tx, found, scopes, changes)
    return run and replace(run, id=new_run_id(), origin=found.origin)


async def _own_runs(tx: AsyncConnection, origin: str, entries: Sequence[Row[Any]]) -> set[str]:
    """Return those runs behind the entries that the trigger itself started: they must not start it."""
    runs = sorted({entry.run for entry in entries if entry.run is not None})
    if not runs:
        return set()
    return set(await tx.scalars(_OWN, {"runs": runs, "origin": origin}))


def _gather(
    pending: dict[str, Any] | None,
    position: tuple[int, int],
    now: datetime,
    entries: Sequence[Row[Any]],
) -> dict[str, Any] | None:
    """Add entries to what was gathered: the first 100 of them, the number of all, and where they begin."""
    if not entries:
        return pending
    before = pending or {
        "count": 0,
        "after": f"{position[0]}.{position[1]}",
        "first_at": iso(now),
        "changes": [],
    }
    room = max(MOST_CHANGES - len(before["changes"]), 0)
    changes = [*before["changes"], *(_change(entry) for entry in entries[:room])]
    return before | {"count": before["count"] + len(entries), "changes": changes}


def _fire_at(
    gathered: dict[str, Any] | None, now: datetime, debounce_seconds: float
) -> datetime | None:
    if gathered is None:
        return None
    debounce = timedelta(seconds=debounce_seconds)
    latest = datetime.fromisoformat(gathered["first_at"]) + MOST_DEBOUNCES * debounce
    return min(now + debounce, latest)


def _change(entry: Row[Any]) -> dict[str, Any]:
    return {
        "uri": entry.uri,
        "verb": entry.verb,
        "version": entry.version,
        "prev_version": entry.prev_version,
        "subject": entry.subject,
        "run": entry.run,
        "at": iso(entry.at),
    }
