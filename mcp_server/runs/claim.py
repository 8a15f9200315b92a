"""Taking runs off the queue: fair between tenants, and flat in cost however long one tenant's queue is."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Integer, Text, bindparam, column, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.types import BigInteger

from mcp_server.runs.outage import OUTAGE
from mcp_server.runs.record import Recorder, Run
from mcp_server.runs.transition import RunRow, run_of
from mcp_server.storage.sql.run_tables import runs

# How often one claim looks.
_ROUNDS = 3
# Of so many attempts at a run it is known who made them.
_MOST_WORKERS = 100
_NAMES = ", ".join(f"claimed.{one.name}" for one in runs.c)

# `lease` holds the worker's lease against whoever would reap it; without that row nothing is taken.
# `groups` jumps along the index of the queue from one (tenant, kind, priority) to the next, so its cost
# is the number of groups, not of runs. `picked` looks, without locking, at the first few of each group
# and gives the slots out: to the tenant that has the least at work over all workers, then by rank.
# `locked` takes as many of each group as were picked; what another worker holds just now is passed
# over for the next one of the group. So no row is locked that is not started. The arrays keep the
# planner from reading the whole table when it has no statistics yet, or guesses what a limit lets through.
# A run that goes on with a conversation waits until those before it have ended. Turns are given out in
# their order, so whoever is first stays first: no two snapshots of the table disagree.
_IN_TURN = """(conversation is null or not exists (
                    select from runs before where before.tenant = runs.tenant
                        and before.conversation = runs.conversation and before.turn < runs.turn
                        and before.status in ('queued', 'running', 'input_required')))"""
_TEXT = f"""
    with recursive lease as materialized (
        select epoch, worker from run_leases
        where epoch = :epoch and expires_at > '-infinity' for key share
    ), held as materialized (
        select tenant, count(*) as running, count(*) filter (where lease = :epoch) as mine
        from runs where lease = any(array(select epoch from run_leases)) group by tenant
    ), groups as (
        (select tenant, kind, priority from runs where status = 'queued'
            and exists (select from lease)
            order by tenant, kind, priority desc limit 1)
        union all
        select next.* from groups g, lateral (
            (select tenant, kind, priority from runs
                where status = 'queued' and tenant = g.tenant and kind = g.kind
                    and priority < g.priority
                order by priority desc limit 1)
            union all
            (select tenant, kind, priority from runs
                where status = 'queued' and tenant = g.tenant and kind > g.kind
                order by kind, priority desc limit 1)
            union all
            (select tenant, kind, priority from runs
                where status = 'queued' and tenant > g.tenant
                order by tenant, kind, priority desc limit 1)
            limit 1
        ) next
    ), rooms as (
        select g.*, coalesce(h.running, 0) as running,
            least(:slots, greatest(:share - coalesce(h.mine, 0), 0)) as room
        from groups g left join held h using (tenant) where g.kind = any(:kinds)
    ), ranked as (
        select r.*, due.not_before, due.created_at, due.id, row_number() over (
            partition by r.tenant
            order by r.priority desc, due.not_before, due.created_at, due.id) as rank
        from rooms r, lateral (
            select not_before, created_at, id from runs
            where status = 'queued' and tenant = r.tenant and kind = r.kind
                and priority = r.priority and not_before <= statement_timestamp()
                and (expires_at is null or expires_at > statement_timestamp())
                and {_IN_TURN}
            order by not_before, created_at, id limit r.room
        ) due
    ), picked as (
        select tenant, kind, priority from ranked where rank <= room
        order by running + rank, priority desc, not_before, created_at, id limit :slots
    ), quotas as materialized (
        select tenant, kind, priority, count(*) as slots from picked
        group by tenant, kind, priority
    ), locked as materialized (
        select due.id from quotas q, lateral (
            select id from runs
            where status = 'queued' and tenant = q.tenant and kind = q.kind
                and priority = q.priority and not_before <= statement_timestamp()
                and (expires_at is null or expires_at > statement_timestamp())
                and {_IN_TURN}
            order by not_before, created_at, id limit q.slots for update skip locked
        ) due
    ), claimed as (
        update runs set status = 'running', lease = :epoch, attempt = attempt + 1,
            workers = workers[greatest(cardinality(workers) - {_MOST_WORKERS - 2}, 1):]
                || array(select worker from lease),
            started_at = coalesce(started_at, clock_timestamp()), last_seq = last_seq + 1
        where id = any(array(select id from locked)) returning runs.*
    ), frame as (
        insert into run_events (run, first_seq, last_seq, events)
        select id, last_seq, last_seq, '[{{"type":"status","status":"running"'
            || case when attempt > 1 then ',"attempt":' || attempt else '' end || '}}]'
        from claimed
    )/* and */
    select wanted.slots as wanted, {_NAMES}
    from (select coalesce(sum(slots), 0)::int as slots from quotas) wanted left join claimed on true
    order by claimed.priority desc, claimed.not_before, claimed.created_at, claimed.id
    """  # noqa: S608  only names of columns
_GIVEN = (
    bindparam("epoch", type_=BigInteger()),
    bindparam("kinds", type_=ARRAY(Text)),
    bindparam("slots", type_=Integer()),
    bindparam("share", type_=Integer()),
)
CLAIM = text(_TEXT).bindparams(*_GIVEN)


class Claiming:
    """Claims for a process's worker."""

    def __init__(self, control: AsyncEngine, record: Recorder) -> None:
        # One statement, one round trip, no transaction that stays open when the process stops.
        self._at_once = control.execution_options(isolation_level="AUTOCOMMIT")
        told = f", told as ({record.statement('claimed')})"
        statement = text(_TEXT.replace("/* and */", told)).bindparams(*_GIVEN)
        self._statement = statement.columns(column("wanted", Integer()), *runs.c)

    async def claim(self, epoch: int, kinds: Collection[str], slots: int, share: int) -> list[Run]:
        """Take runs off the queue, and look again if other workers took what was picked."""
        taken: list[RunRow] = []
        for _ in range(_ROUNDS):
            free = slots - len(taken)
            given = {"epoch": epoch, "kinds": list(kinds), "slots": free, "share": share}
            try:
                async with self._at_once.connect() as connection:
                    rows = (await connection.execute(self._statement, given)).all()
            except OUTAGE:
                if not taken:
                    raise
                break  # what is taken must begin
            claimed = [row for row in rows if row.id is not None]
            taken += claimed
            if len(claimed) >= min(rows[0].wanted, free) or len(taken) >= slots:
                break
        return [run_of(row) for row in taken]
