"""What time does to runs: they expire, their keys die, what ended is compacted, and at last deleted.

Several workers may sweep at once: each takes small batches of rows that nobody holds.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Text, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.runs.compaction import Close, compact
from mcp_server.runs.record import Recorder, Status, TellEnds, nobody, status_event
from mcp_server.runs.redaction import NOTHING, Redaction
from mcp_server.runs.transition import journalled
from mcp_server.storage.sql.schema import encode_json

BATCH = 500
# Frames of many runs at once would make one statement long.
COMPACT_BATCH = 100
EFFECT_DAYS = 7

_LATE = {"code": "timeout", "message": "the run did not end before expires_at"}
_KEYLESS = {
    "code": "unauthenticated",
    "message": "the key that started the run is revoked or expired",
}

_EXPIRED = """
    select r.id from runs r
    where r.expires_at <= statement_timestamp()
        and r.status in ('queued', 'running', 'input_required')
"""
# Nobody waits any more for what a run began that ended otherwise than well.
_ORPHANS = """
    select r.id from runs r join runs parent
        on parent.tenant = r.tenant and parent.id = substr(r.origin, 7)
    where starts_with(r.origin, 'run://')
        and r.status in ('queued', 'running', 'input_required')
        and parent.status in ('failed', 'cancelled', 'expired')
"""
# The question that a run asks as its own is not open any more, or its asker is gone.
_ANSWERED = """
    select r.id from runs r left join runs child
        on child.tenant = r.tenant and child.id = r.awaits
    where r.awaits is not null and r.status = 'input_required'
        and (child.status is distinct from 'input_required'
            or child.request::json ->> 'id' <> r.request::json #>> '{child,request}')
"""
_RELEASE = text(
    """
    with released as (
        update runs set status = 'queued', request = null, strikes = 0, last_seq = last_seq + 1
        where id = any(:ids) returning id, tenant, subject, status, last_seq
    ), frame as (
        insert into run_events (run, first_seq, last_seq, events)
        select id, last_seq, last_seq, :told from released
    )
    select id, tenant, subject, status from released
    """
).bindparams(bindparam("ids", type_=ARRAY(Text)))
# A key that died longer ago was seen by one of the many looks since, or no worker lived; a worker
# looks at the key again when it claims.
_OF_DEAD_KEYS = """
    select r.id from api_keys k join runs r on r.key_id = k.id
    where (k.revoked_at > statement_timestamp() - interval '2 minutes'
            or k.expires_at > statement_timestamp() - interval '2 minutes'
            and k.expires_at <= statement_timestamp())
        and r.status in ('queued', 'running', 'input_required')
"""
_END = text(
    """
    with ended as (
        update runs set status = :status, lease = null, request = null, error = :error,
            last_seq = last_seq + 1, ended_at = clock_timestamp(),
            purge_at = purge_time(ttl_seconds)
        where id = any(:ids) returning id, tenant, subject, status, last_seq
    ), frame as (
        insert into run_events (run, first_seq, last_seq, events)
        select id, last_seq, last_seq, :told from ended
    )
    select id, tenant, subject, status from ended
    """
).bindparams(bindparam("ids", type_=ARRAY(Text)))
_PURGE_RUNS = text(
    """
    delete from runs where id in (
        select id from runs where purge_at <= statement_timestamp()
        order by purge_at limit :batch for update skip locked)
    returning id
    """
)
# The effect of a run that still lives, however long it waits, is what keeps it from being done again.
_PURGE_EFFECTS = text(
    """
    delete from effects where ctid = any(array(
        select ctid from effects
        where at < statement_timestamp() - make_interval(days => :days) and not exists (
            select from runs where id = split_part(effects.key, '/', 1)
                and status in ('queued', 'running', 'input_required'))
        order by at limit :batch for update skip locked))
    returning 1
    """
)


_DUE = {
    "dead_keys": _OF_DEAD_KEYS,
    "expire": _EXPIRED,
    "orphans": _ORPHANS,
    "answered": _ANSWERED,
}
_TAKEN = {
    name: text(f"{rows} limit :batch for update of r skip locked") for name, rows in _DUE.items()
}
_LOOK = text("select " + ", ".join(f"exists ({rows}) as {name}" for name, rows in _DUE.items()))


class Sweep:
    """Every method does all there is to do, in small transactions, and may be repeated at any time."""

    def __init__(
        self,
        control: AsyncEngine,
        record: Recorder,
        redaction: Redaction = NOTHING,
        tell_ends: TellEnds = nobody,
    ) -> None:
        self._control = control
        self._at_once = control.execution_options(isolation_level="AUTOCOMMIT")
        self._record = record
        self._redaction = redaction
        self._tell_ends = tell_ends

    async def sweep(self) -> list[str]:
        """End and release all runs that time and others have decided on; return them.

        One question tells what there is to do, which nearly always is nothing.
        """
        works = {
            "dead_keys": self.dead_keys,
            "expire": self.expire,
            "orphans": self.orphans,
            "answered": self.answered,
        }
        swept: list[str] = []
        while True:
            async with self._at_once.connect() as connection:
                due = (await connection.execute(_LOOK)).mappings().one()
            # In this order: what ends first may leave orphans.
            changed = [run for name, work in works.items() if due[name] for run in await work()]
            swept += changed
            if not changed:  # nothing is due, or another process has it in hand
                return swept

    async def expire(self) -> list[str]:
        """End live runs whose `expires_at` has passed; return them."""
        return await self._end("expire", "expired", _LATE)

    async def dead_keys(self) -> list[str]:
        """Fail live runs whose key was revoked or expired in the last two minutes; return them."""
        return await self._end("dead_keys", "failed", _KEYLESS)

    async def orphans(self) -> list[str]:
        """Cancel live runs of which the run that began them failed, expired or was cancelled; return them."""
        return await self._end("orphans", "cancelled", None)

    async def answered(self) -> list[str]:
        """Queue runs that ask what another one asked and asks no more; return them."""
        told = {"told": encode_json([status_event("queued")])}
        return await self._change("answered", _RELEASE, told)

    async def purge(self) -> int:
        """Delete runs whose `purge_at` has passed, and effects older than a week; return how many."""
        deleted = await self._delete(_PURGE_RUNS, {})
        return deleted + await self._delete(_PURGE_EFFECTS, {"days": EFFECT_DAYS})

    async def compact(self, close: Close = nobody) -> int:
        """Merge the frames of ended runs, delete their steps, take out what is not to be kept.

        Numbers and bodies of events stay as they are, but for redacted values. `close` is told of the
        runs first that did not complete. Return how many runs.
        """
        done = 0
        while ids := await compact(self._control, self._redaction, COMPACT_BATCH, close):
            done += len(ids)
        return done

    async def _end(self, due: str, status: Status, error: dict[str, str] | None) -> list[str]:
        told = encode_json([status_event(status, error)])
        kept = None if error is None else encode_json(error)
        ended = await self._change(due, _END, {"status": status, "error": kept, "told": told})
        await self._tell_ends(ended)
        return ended

    async def _change(self, due: str, statement: TextClause, given: dict[str, Any]) -> list[str]:
        changed: list[str] = []
        while True:
            async with self._control.begin() as tx:
                ids = list(await tx.scalars(_TAKEN[due], {"batch": BATCH}))
                if not ids:
                    return changed
                rows = (await tx.execute(statement, {"ids": ids, **given})).all()
                await journalled(tx, self._record, rows)
            changed += ids

    async def _delete(self, statement: TextClause, given: dict[str, Any]) -> int:
        deleted = 0
        async with self._at_once.connect() as connection:
            while True:
                rows = (await connection.execute(statement, {"batch": BATCH, **given})).all()
                deleted += len(rows)
                if len(rows) < BATCH:
                    return deleted
