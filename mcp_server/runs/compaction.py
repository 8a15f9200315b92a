"""Making ended runs small: their frames merged, their steps deleted, their secrets taken out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, cast

from sqlalchemy import BigInteger, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.runs.redaction import Redaction
from mcp_server.storage.sql.schema import JsonText

# Frames of at most 256 KiB: what is over half of that stays alone, the others fill up halves.
FRAME_BYTES = 256 * 1024
_PAGE = 10

Close: TypeAlias = Callable[[Sequence[str]], Awaitable[None]]
"""Tell the stores that cannot see the rows of runs that these have ended."""

_KEPT = ("input", "output", "progress", "definition")
_IDS = bindparam("ids", type_=ARRAY(Text))
_LOOSE = text(
    """
    select id, status from runs where ended_at is not null and not compacted
    order by ended_at limit :batch for update skip locked
    """
)
# One statement: the texts of JSON lists are put together as they are, so that numbers and bodies stay.
_MERGE = text(
    """
    with picked as materialized (
        select id from runs where id = any(:ids) and not compacted order by id
        for update skip locked
    ), sized as (
        select run, first_seq, last_seq, at, octet_length(events) as size,
            ceil(sum(octet_length(events)) over w / :half) as share
        from run_events join picked on picked.id = run
        window w as (partition by run order by first_seq)
    ), marked as (
        select *, (size > :half or lag(size) over w > :half or share <> lag(share) over w)::int
            as begins
        from sized window w as (partition by run order by first_seq)
    ), parted as (
        select *, sum(coalesce(begins, 0)) over (partition by run order by first_seq) as part
        from marked
    ), merged as materialized (
        select p.run, min(p.first_seq) as first_seq, max(p.last_seq) as last_seq,
            max(p.at) as at,
            '[' || string_agg(format('[%s,%s]', p.first_seq, floor(extract(epoch from p.at) * 1000)),
                ',' order by p.first_seq) || ']' as times,
            '[' || string_agg(substr(e.events, 2, p.size - 2), ',' order by p.first_seq) || ']'
                as events
        from parted p join run_events e on e.run = p.run and e.first_seq = p.first_seq
        group by p.run, p.part having count(*) > 1
    ), kept as (
        update run_events e set last_seq = m.last_seq, events = m.events, at = m.at, times = m.times
        from merged m where e.run = m.run and e.first_seq = m.first_seq
    ), dropped as (
        delete from run_events e using merged m
        where e.run = m.run and e.first_seq > m.first_seq and e.first_seq <= m.last_seq
    ), steps as (
        delete from run_steps s using picked where s.run = picked.id
    )
    update runs set compacted = true from picked where runs.id = picked.id returning runs.id
    """
).bindparams(_IDS, bindparam("half", FRAME_BYTES // 2))

_SECRET_RUNS = (
    text(
        """
        select id, input, output, progress, definition from runs
        where id = any(:ids) and id > :after
            and (input ~* :pattern or output ~* :pattern or progress ~* :pattern)
        order by id limit :page
        """
    )
    .bindparams(_IDS)
    .columns(id=Text(), **{name: JsonText() for name in _KEPT})
)
_SECRET_FRAMES = (
    text(
        """
        select run, first_seq, last_seq, events from run_events
        where run = any(:ids) and (run, first_seq) > (:run, :seq) and events ~* :pattern
        order by run, first_seq limit :page
        """
    )
    .bindparams(_IDS, bindparam("seq", type_=BigInteger()))
    .columns(run=Text(), first_seq=BigInteger(), last_seq=BigInteger(), events=JsonText())
)
_KEEP_RUN = text(
    """
    update runs set input = :input, output = :output, progress = :progress,
        definition = :definition
    where id = :id and not compacted
    """
).bindparams(*(bindparam(name, type_=JsonText()) for name in _KEPT))
# Another worker may have merged the frame meanwhile, after it had redacted it itself.
_KEEP_FRAME = text(
    """
    update run_events set events = :events
    where run = :id and first_seq = :first and last_seq = :last
    """
).bindparams(
    bindparam("events", type_=JsonText()),
    bindparam("first", type_=BigInteger()),
    bindparam("last", type_=BigInteger()),
)


async def compact(
    control: AsyncEngine, redaction: Redaction, batch: int, close: Close
) -> list[str]:
    """Compact up to `batch` ended runs; return those that were.

    Those that did not end by finishing are closed first: somebody may still be at work for them.
    No transaction is open while values are redacted: the journal's readers wait for every open one.
    """
    at_once = control.execution_options(isolation_level="AUTOCOMMIT")
    async with at_once.connect() as connection:
        ended = (await connection.execute(_LOOSE, {"batch": batch})).all()
    ids: list[str] = [row.id for row in ended]
    if not ids:
        return []
    await close([row.id for row in ended if row.status != "completed"])
    async with at_once.connect() as connection:
        if redaction.fields:
            await _redact_runs(connection, redaction, ids)
            await _redact_frames(connection, redaction, ids)
        return list(await connection.scalars(_MERGE, {"ids": ids}))


async def _redact_runs(connection: AsyncConnection, redaction: Redaction, ids: list[str]) -> None:
    after = ""
    while True:
        given: dict[str, Any] = {"ids": ids, "after": after, "page": _PAGE}
        rows = await connection.execute(_SECRET_RUNS, given | {"pattern": redaction.pattern})
        found = rows.all()
        for row in found:
            kept = {name: redaction.apply(getattr(row, name)) for name in _KEPT[:3]}
            kept["definition"] = _without_variables(row.definition, row.input, redaction)
            await connection.execute(_KEEP_RUN, {"id": row.id, **kept})
        if len(found) < _PAGE:
            return
        after = found[-1].id


def _without_variables(definition: Any, given: Any, redaction: Redaction) -> Any:
    """Return an agent's definition without the variables that were filled into its instructions."""
    if not isinstance(given, dict) or not isinstance(definition, dict):
        return definition
    variables = cast("dict[str, Any]", given).get("variables")
    kept = cast("dict[str, Any]", definition)
    if not variables or "instructions" not in kept:
        return kept
    return {**kept, "instructions": redaction.filled(kept["instructions"], variables)}


async def _redact_frames(connection: AsyncConnection, redaction: Redaction, ids: list[str]) -> None:
    run, seq = "", 0
    while True:
        given: dict[str, Any] = {"ids": ids, "run": run, "seq": seq, "page": _PAGE}
        rows = await connection.execute(_SECRET_FRAMES, given | {"pattern": redaction.pattern})
        found = rows.all()
        for row in found:
            at = {"id": row.run, "first": row.first_seq, "last": row.last_seq}
            await connection.execute(_KEEP_FRAME, at | {"events": redaction.apply(row.events)})
        if len(found) < _PAGE:
            return
        run, seq = found[-1].run, found[-1].first_seq
