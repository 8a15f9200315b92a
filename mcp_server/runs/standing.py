"""What schedules and triggers have in common: whose they are, what they start, and how they are stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Row, Table, func, not_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.runs.record import LIVE, Run
from mcp_server.storage.sql.run_tables import runs
from mcp_server.storage.sql.schema import api_keys

DEAD_KEY = "the key that saved it is revoked or expired; save it again with a living one"


class Stop(Exception):
    """A schedule or trigger must not go on; `reason` says why, and what would let it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Owner:
    """Who saved it, with the scopes of that moment."""

    tenant: str
    subject: str
    key_id: str | None
    grant: frozenset[str]


@dataclass(frozen=True, slots=True)
class Standing:
    """One schedule or trigger: `origin` marks the runs that it starts, `work` is what they do, as data."""

    id: str
    origin: str
    name: str
    owner: Owner
    work: dict[str, Any]


class Rights(Protocol):
    """What an owner may do now: what was granted at the save, as far as the key may still do it."""

    def may_read(self, uri: str, labels: Sequence[str]) -> bool: ...


class Starter(Protocol):
    """Decides and prepares what a fire starts; it stands above this package."""

    def rights(self, owner: Owner, scopes: frozenset[str]) -> Rights:
        """Return the rights of an owner whose key has these scopes now."""
        ...

    def check(self, standing: Standing, scopes: frozenset[str]) -> None:
        """Return if the owner may start it now.

        Raises:
            Stop: not so.
        """
        ...

    async def prepare(
        self,
        tx: AsyncConnection,
        standing: Standing,
        scopes: frozenset[str],
        changes: dict[str, Any] | None,
    ) -> Run | None:
        """Return the run to start; its id, origin, dedupe key and time are set by the caller.

        None while what it starts is paused: a tick passes then, and changes are gathered on.
        `changes` are those that a trigger saw, None for a schedule.

        Raises:
            Stop: the owner may not start it now, or it is not there.
        """
        ...


class Creates(Protocol):
    """The queue, as far as a fire is concerned."""

    async def create(self, run: Run, tx: AsyncConnection | None = None) -> tuple[Run, bool]: ...


Stopped = Callable[[AsyncConnection, str, Owner, str, str], Awaitable[None]]
"""Journal, in the transaction, that `schedule` or `trigger`, of an owner, named so, stopped for a reason."""


def standing(row: Row[Any], kind: str) -> Standing:
    """Read the common columns of a row; `kind` is `schedule` or `trigger`."""
    owner = Owner(row.tenant, row.subject, row.key_id, frozenset(row.grant_scopes))
    return Standing(row.id, f"{kind}/{row.id}", row.name, owner, row.work)


async def scopes_now(tx: AsyncConnection, owner: Owner) -> frozenset[str]:
    """Return what the owner's key may do, and hold it so until `tx` ends.

    A revocation that is under way is waited for, and one that comes later waits: nothing is started
    by a key after its revocation is done.

    Raises:
        Stop: the key is dead.
    """
    if owner.key_id is None:
        return owner.grant
    query = select(api_keys.c.scopes).where(api_keys.c.id == owner.key_id, not_(_dead()))
    scopes = await tx.scalar(query.with_for_update(read=True))
    if scopes is None:
        raise Stop(DEAD_KEY)
    return frozenset(scopes)


async def live_runs(tx: AsyncConnection, tenant: str, origin: str, most: int) -> int:
    """Count the runs of an origin that have not ended, up to `most`."""
    found = (
        select(runs.c.id)
        .where(runs.c.tenant == tenant, runs.c.origin == origin, runs.c.status.in_(LIVE))
        .limit(most)
    )
    return await tx.scalar(select(func.count()).select_from(found.subquery())) or 0


async def stop_dead(
    control: AsyncEngine, table: Table, kind: str, starter: Starter, stopped: Stopped
) -> int:
    """Stop those whose key is dead, or has lost the right to what they start; return how many.

    One query while all is well, which holds nothing and needs no transaction; only a key whose scopes
    are not what it granted is looked at closer.
    """
    at_once = control.execution_options(isolation_level="AUTOCOMMIT")
    async with at_once.connect() as connection:
        if (await connection.execute(_any_suspect(table))).first() is None:
            return 0
    async with control.begin() as tx:
        rows = (await tx.execute(_suspects(table))).all()
        count = 0
        for row in rows:
            found = standing(row, kind)
            reason = DEAD_KEY if row.dead else _refusal(starter, found, row.key_scopes)
            if reason is not None:
                await stop(tx, table, kind, found, reason, stopped)
                count += 1
    return count


async def stop(
    tx: AsyncConnection, table: Table, kind: str, found: Standing, reason: str, stopped: Stopped
) -> None:
    """Stop one that the transaction holds; it stays as it is until somebody saves or resumes it."""
    at = "next_fire_at" if kind == "schedule" else "fire_at"
    await tx.execute(
        update(table).where(table.c.id == found.id).values({"stopped": reason, at: None})
    )
    await stopped(tx, kind, found.owner, found.name, reason)


def _refusal(starter: Starter, found: Standing, scopes: list[str]) -> str | None:
    try:
        starter.check(found, frozenset(scopes))
    except Stop as order:
        return order.reason
    return None


def _suspects(table: Table) -> Any:
    return _suspicious(table).with_for_update(of=table, skip_locked=True)


@cache  # asked several times a second: to build it takes longer than to run it
def _any_suspect(table: Table) -> Any:
    return _suspicious(table).with_only_columns(table.c.id).limit(1)


def _suspicious(table: Table) -> Any:
    dead = or_(api_keys.c.id.is_(None), _dead())
    return (
        select(table, api_keys.c.scopes.label("key_scopes"), dead.label("dead"))
        .outerjoin(api_keys, api_keys.c.id == table.c.key_id)
        .where(table.c.enabled, table.c.stopped.is_(None), table.c.key_id.is_not(None))
        .where(or_(dead, not_(table.c.grant_scopes.contained_by(api_keys.c.scopes))))
    )


def _dead() -> ColumnElement[bool]:
    return or_(
        api_keys.c.revoked_at.is_not(None),
        func.coalesce(api_keys.c.expires_at <= func.clock_timestamp(), False),
    )
