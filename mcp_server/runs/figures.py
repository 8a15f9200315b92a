"""What the run engine looks like from outside at one moment: its queue, its leases, what waits and runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

_QUEUES = text(
    """
    select kind, count(*) as depth,
        coalesce(extract(epoch from clock_timestamp()
            - min(not_before) filter (where not_before <= statement_timestamp())), 0)::float as age
    from runs where status = 'queued' group by kind
    """
)
_TOTALS = text(
    """
    select
        (select count(*) from runs where lease is not null) as running,
        (select count(*) from runs where status = 'input_required') as waiting,
        (select count(*) from runs where dead_letter) as dead_letters,
        coalesce(extract(epoch from min(expires_at) - clock_timestamp()), 0)::float as seconds_left,
        count(*) as leases, coalesce(sum(slots), 0) as slots
    from run_leases where expires_at > clock_timestamp()
    """
)


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """The queued runs of one kind; `oldest_seconds` is how long the first one could have begun."""

    depth: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """All workers together; dead letters are those not deleted yet.

    `lease_seconds_left` is how long the lease that was renewed least recently holds, 0 if there is none.
    """

    queues: Mapping[str, QueueFigures]
    leases: int
    slots: int
    running: int
    waiting: int
    dead_letters: int
    lease_seconds_left: float


async def figures(control: AsyncEngine) -> Figures:
    """Read the figures by two queries over small indexes."""
    at_once = control.execution_options(isolation_level="AUTOCOMMIT")
    async with at_once.connect() as connection:
        queues = (await connection.execute(_QUEUES)).all()
        totals = (await connection.execute(_TOTALS)).one()
    return Figures(
        queues={row.kind: QueueFigures(row.depth, row.age) for row in queues},
        leases=totals.leases,
        slots=totals.slots,
        running=totals.running,
        waiting=totals.waiting,
        dead_letters=totals.dead_letters,
        lease_seconds_left=totals.seconds_left,
    )
