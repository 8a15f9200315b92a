"""The leases of workers: one row each, renewed by one heartbeat, and taken away when it has been silent.

All times are the database's own. A lease that expired may still be renewed as long as nobody reaped it;
once somebody did, its epoch holds nothing, for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.runs.record import ENDED, Recorder, TellEnds, nobody, status_event
from mcp_server.runs.transition import RunRow, journalled
from mcp_server.storage.sql.schema import encode_json

LEASE_SECONDS = 10.0
HEARTBEAT_SECONDS = 2.0
# A worker that has not renewed its lease for this part of it, one heartbeat and a half, keeps nothing
# for the others any more.
FRESH = 0.3
# So often in a row a run may take its worker down without a step finished in between.
MAX_STRIKES = 5

_WORN_OUT = {
    "code": "internal",
    "message": f"its worker died {MAX_STRIKES + 1} times while it ran; it is not tried again",
}
_EPOCH = bindparam("epoch", type_=BigInteger())

_TAKE = text(
    """
    insert into run_leases (worker, slots, expires_at)
    values (:worker, :slots, clock_timestamp() + make_interval(secs => :seconds)) returning epoch
    """
)
_RENEW = text(
    """
    with before as (
        select epoch, expires_at from run_leases
        where epoch = :epoch and expires_at > '-infinity' for no key update)
    update run_leases set expires_at = clock_timestamp() + make_interval(secs => :seconds)
    from before where run_leases.epoch = before.epoch
    returning extract(epoch from before.expires_at - clock_timestamp())::float as left,
        not exists (
            select from run_leases as others where others.epoch < :epoch and others.expires_at >
                clock_timestamp() + make_interval(secs => :fresh)) as keeper
    """
).bindparams(_EPOCH)
# `-infinity` marks a lease of which a part was taken: it cannot be renewed or claim any more. Whoever
# finds its own lease expired takes none: the clock has jumped, or the whole machine stood still, and
# the others had no time to renew theirs either.
_DOOM = text(
    """
    update run_leases set expires_at = '-infinity' where epoch = (
        select epoch from run_leases
        where expires_at < clock_timestamp() and epoch <> :epoch and not epoch = any(:seen)
            and exists (
                select from run_leases where epoch = :epoch and expires_at > clock_timestamp())
        order by epoch limit 1 for update skip locked)
    returning epoch
    """
).bindparams(_EPOCH)
# FOR UPDATE, here as above, waits for a claim under the lease; a mere update would not.
_GIVE_UP = text(
    """
    update run_leases set expires_at = '-infinity' where epoch = (
        select epoch from run_leases where epoch = :epoch for update)
    returning epoch
    """
).bindparams(_EPOCH)
# A run whose row somebody holds just now, say in a write of the worker that was silent, is left for
# the next time, and its lease with it.
_RELEASE = text(
    """
    with held as (
        select id,
            case when cancel_requested then 'cancelled'
                when strikes + :strike > :most then 'failed' else 'queued' end as next
        from runs where lease = :epoch order by id for update skip locked
    ), released as (
        update runs set status = next, lease = null, last_seq = last_seq + 1,
            strikes = strikes + case when next = 'queued' then :strike else 0 end,
            dead_letter = next = 'failed',
            error = case when next = 'failed' then :error end,
            ended_at = case when next <> 'queued' then clock_timestamp() end,
            purge_at = case when next <> 'queued' then purge_time(ttl_seconds) end
        from held where runs.id = held.id
        returning runs.id, tenant, subject, status, last_seq
    ), frame as (
        insert into run_events (run, first_seq, last_seq, events)
        select id, last_seq, last_seq, case status
            when 'queued' then :queued when 'failed' then :failed else :cancelled end
        from released
    )
    select id, tenant, subject, status from released
    """
).bindparams(_EPOCH)
_DROP = text(
    "delete from run_leases where epoch = :epoch and not exists (select from runs where lease = :epoch)"
).bindparams(_EPOCH)
_TOLD = {
    "error": encode_json(_WORN_OUT),
    "queued": encode_json([status_event("queued")]),
    "failed": encode_json([status_event("failed", _WORN_OUT)]),
    "cancelled": encode_json([status_event("cancelled")]),
}


class Renewal(NamedTuple):
    """`left`: the seconds that the lease had left, less than 0 if it had expired.

    `keeper`: no worker with an older lease has renewed it lately, so it is upon this one to do what
    one of them must do for all.
    """

    left: float
    keeper: bool


class Leases:
    """The leases of every worker; `seconds` is how long one holds without being renewed."""

    def __init__(
        self,
        control: AsyncEngine,
        record: Recorder,
        seconds: float = LEASE_SECONDS,
        *,
        tell_ends: TellEnds = nobody,
    ) -> None:
        self._control = control
        self._at_once = control.execution_options(isolation_level="AUTOCOMMIT")
        self._record = record
        self._seconds = seconds
        self._tell_ends = tell_ends

    async def take(self, worker: str, slots: int) -> int:
        """Return the epoch of a new lease; `slots` is how many runs its worker executes at once."""
        given = {"worker": worker, "slots": slots, "seconds": self._seconds}
        async with self._at_once.connect() as connection:
            return (await connection.execute(_TAKE, given)).scalar_one()

    async def renew(self, epoch: int) -> Renewal | None:
        """Hold the lease for another while; None if it was taken away."""
        given = {"epoch": epoch, "seconds": self._seconds, "fresh": self._seconds * (1 - FRESH)}
        async with self._at_once.connect() as connection:
            row = (await connection.execute(_RENEW, given)).first()
        return None if row is None else Renewal(row.left, row.keeper)

    async def give_up(self, epoch: int) -> list[str]:
        """End a lease; return the runs that it still held, which are queued again."""
        async with self._control.begin() as tx:
            if await tx.scalar(_GIVE_UP, {"epoch": epoch}) is None:
                return []
            rows = await self._release(tx, epoch, strike=0)
        return await self._told(rows)

    async def reap(self, own_epoch: int) -> list[str]:
        """Take the leases of others that expired away, unless one's own has; return the runs that they held.

        A run whose cancellation was asked for is cancelled. One whose workers died six times without a
        step finished fails as dead letter. The others are queued again.
        """
        taken: list[str] = []
        seen: list[int] = []
        while True:
            async with self._control.begin() as tx:
                epoch = await tx.scalar(_DOOM, {"epoch": own_epoch, "seen": seen})
                if epoch is None:
                    return taken
                rows = await self._release(tx, epoch, strike=1)
            seen.append(epoch)
            taken += await self._told(rows)

    async def _told(self, rows: Sequence[RunRow]) -> list[str]:
        """Tell of those that ended, and return all."""
        await self._tell_ends([row.id for row in rows if row.status in ENDED])
        return [row.id for row in rows]

    async def _release(self, tx: AsyncConnection, epoch: int, *, strike: int) -> list[RunRow]:
        rows = list(
            await tx.execute(
                _RELEASE, {"epoch": epoch, "strike": strike, "most": MAX_STRIKES, **_TOLD}
            )
        )
        await journalled(tx, self._record, rows)
        await tx.execute(_DROP, {"epoch": epoch})
        return rows
