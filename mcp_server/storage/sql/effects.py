"""The effects of calls with an idempotency key, in the control database: each marked in the effect's own transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, bindparam, delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import LeaseLost
from mcp_server.storage.sql.run_tables import effects

_HELD = text(
    """
    select 1 from runs
    where id = :run and tenant = :tenant and lease = :epoch and attempt = :attempt
        and status = 'running' for share
    """
)
# One statement: the mark of a stale caller is never tried. It waits for a twin that is not
# committed yet; what the twin stored is then newer than this statement's snapshot.
_MARK_HELD = text(
    """
    with held as (
        select from runs
        where id = :run and tenant = :tenant and lease = :epoch and attempt = :attempt
        and status = 'running' for share),
    marked as (
        insert into effects (tenant, key, verb, uri) select :tenant, :key, :verb, :uri from held
        on conflict do nothing returning 1)
    select (select count(*) from held) as held, (select count(*) from marked) as marked
    """
)
_MARK = text(
    """
    insert into effects (tenant, key, verb, uri) values (:tenant, :key, :verb, :uri)
    on conflict do nothing returning 1
    """
)
_AT = and_(
    *(effects.c[name] == bindparam(f"at_{name}") for name in ("tenant", "key", "verb", "uri"))
)
_REMEMBER = update(effects).where(_AT).values(result=bindparam("answer"))
_FORGET = delete(effects).where(_AT)
_STORED = select(effects.c.result).where(_AT)
_LEASE = text(
    """
    select 1 from runs where id = :run and tenant = :tenant and lease = :epoch
        and attempt = :attempt and status = 'running'
    """
)


@dataclass(frozen=True, slots=True)
class Lease:
    """The run that a call works for, and the lease and the attempt under which it does so."""

    run: str
    epoch: int
    attempt: int

    def row(self) -> dict[str, Any]:
        return {"run": self.run, "epoch": self.epoch, "attempt": self.attempt}


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect: of a tenant's `key`, one for each verb and URI. `lease` fences it, None does not."""

    tenant: str
    key: str
    verb: str
    uri: str
    lease: Lease | None = None

    def at(self) -> dict[str, Any]:
        return {
            "at_tenant": self.tenant,
            "at_key": self.key,
            "at_verb": self.verb,
            "at_uri": self.uri,
        }

    def row(self) -> dict[str, Any]:
        return {"tenant": self.tenant, "key": self.key, "verb": self.verb, "uri": self.uri}


async def hold(tx: AsyncConnection, tenant: str, lease: Lease) -> None:
    """Keep the run under its lease until `tx` ends.

    Raises:
        LeaseLost: the lease does not hold it.
    """
    given = lease.row() | {"tenant": tenant}
    if await tx.scalar(_HELD, given) is None:
        raise LeaseLost


async def mark(tx: AsyncConnection, effect: Effect) -> bool:
    """Mark an effect as done with `tx`, and tell whether it was not yet.

    A twin that is under way is waited for. With a lease, the run is kept under it until `tx` ends.

    Raises:
        LeaseLost: the lease does not hold the run.
    """
    if effect.lease is None:
        return await tx.scalar(_MARK, effect.row()) is not None
    done = (await tx.execute(_MARK_HELD, effect.row() | effect.lease.row())).one()
    if not done.held:
        raise LeaseLost
    return bool(done.marked)


async def remember(tx: AsyncConnection, effect: Effect, answer: Any) -> None:
    """Store what the call that did a marked effect answers."""
    await tx.execute(_REMEMBER, effect.at() | {"answer": answer})


async def forget(tx: AsyncConnection, effect: Effect) -> bool:
    """Take a mark back, since the effect certainly did not happen; tell whether there was one."""
    return (await tx.execute(_FORGET, effect.at())).rowcount > 0


async def stored(tx: AsyncConnection, effect: Effect) -> Any | None:
    """Return the answer of an effect that is done; None if it is not, or has no answer."""
    return await tx.scalar(_STORED, effect.at())


async def look(tx: AsyncConnection, effect: Effect) -> Any | None:
    """Return what `stored` does, without a lock, to spare a call the work before its transaction.

    Raises:
        LeaseLost: the lease does not hold the run.
    """
    if effect.lease is not None:
        given = effect.lease.row() | {"tenant": effect.tenant}
        if await tx.scalar(_LEASE, given) is None:
            raise LeaseLost
    return await stored(tx, effect)
