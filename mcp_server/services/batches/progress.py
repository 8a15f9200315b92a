"""How far a batch is: written by its run, each time under the run's lease."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from sqlalchemy import Text, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as put
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import NotFound
from mcp_server.runs.fence import parse_key
from mcp_server.services.batches.records import BatchError, BatchRecord, record_of
from mcp_server.storage.sql import effects
from mcp_server.storage.sql.batch_tables import batch_lines as lines
from mcp_server.storage.sql.batch_tables import batches
from mcp_server.storage.sql.effects import Lease

_PAGE = 200


class NewLine(NamedTuple):
    """A line of the input file and where it is there, in bytes; the first line is 1."""

    line: int
    custom_id: str
    first_byte: int
    end_byte: int


class Waiting(NamedTuple):
    """A line that was not answered yet."""

    line: int
    custom_id: str
    first_byte: int
    end_byte: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineAnswer:
    """What became of a line: `body` is the JSON text that answered it."""

    state: str
    answer_id: str
    status_code: int | None = None
    request_id: str | None = None
    body: str | None = None
    error: dict[str, str] | None = None


class AnsweredLine(NamedTuple):
    line: int
    custom_id: str
    answer: LineAnswer


class BatchProgress:
    """The progress of one batch; `key` is a step's of the run that makes it.

    Every method that writes raises LeaseLost if the run is another worker's by now.
    """

    def __init__(self, control: AsyncEngine, tenant: str, batch: str, key: str) -> None:
        self._control = control
        self._tenant = tenant
        self._batch = batch
        step = parse_key(key)
        assert step is not None, "a run makes its keys"  # noqa: S101
        self._lease = Lease(step.run, step.epoch, step.attempt)
        self._this = (batches.c.tenant == tenant, batches.c.id == batch)
        self._lines = (lines.c.tenant == tenant, lines.c.batch == batch)

    async def load(self) -> BatchRecord:
        """Return the batch.

        Raises:
            NotFound: it was deleted.
        """
        async with self._control.connect() as tx:
            row = (await tx.execute(select(batches).where(*self._this))).one_or_none()
        if row is None:
            raise NotFound("the batch was deleted while it ran", param="batch_id")
        return record_of(row)

    async def forget_lines(self) -> None:
        """Begin the lines anew."""
        async with self._held() as tx:
            await tx.execute(delete(lines).where(*self._lines))

    async def add_lines(self, found: Sequence[NewLine]) -> list[int]:
        """Store lines that are to be answered; return the numbers of those whose custom_id is there already."""
        given = [{"tenant": self._tenant, "batch": self._batch, **row._asdict()} for row in found]
        statement = put(lines).values(given).on_conflict_do_nothing().returning(lines.c.line)
        async with self._held() as tx:
            added = set(await tx.scalars(statement))
        return [row.line for row in found if row.line not in added]

    async def begin(self, total: int) -> None:
        """Go on from `validating` to `in_progress`; a batch that is being cancelled stays so."""
        validating = batches.c.status == "validating"
        async with self._held() as tx:
            await tx.execute(update(batches).where(*self._this).values(total=total))
            values = {"status": "in_progress", "in_progress_at": func.now()}
            await tx.execute(update(batches).where(*self._this, validating).values(values))

    async def waiting(self, after: int) -> list[Waiting]:
        """Return some of the lines after line `after` that were not answered, in order; none at the end."""
        columns = (lines.c.line, lines.c.custom_id, lines.c.first_byte, lines.c.end_byte)
        where = (*self._lines, lines.c.state == "waiting", lines.c.line > after)
        query = select(*columns).where(*where).order_by(lines.c.line).limit(_PAGE)
        async with self._control.connect() as tx:
            return [Waiting(*row) for row in await tx.execute(query)]

    async def store(self, line: int, answer: LineAnswer) -> None:
        """Store what became of a line, and count it: both or none."""
        one = (*self._lines, lines.c.line == line, lines.c.state == "waiting")
        async with self._held() as tx:
            if (await tx.execute(update(lines).where(*one).values(asdict(answer)))).rowcount:
                column = batches.c[answer.state]
                await tx.execute(
                    update(batches).where(*self._this).values({column.name: column + 1})
                )

    async def finalize(self, error: dict[str, str] | None) -> None:
        """Go on to the files; lines that were not asked fail with `error`."""
        rest = (*self._lines, lines.c.state == "waiting")
        values: dict[str, Any] = {"finalizing_at": func.now()}
        async with self._held() as tx:
            if error is not None:
                drawn = func.concat(
                    "batch_req_", func.md5(lines.c.batch + cast(lines.c.line, Text))
                )
                left = {"state": "failed", "error": error, "answer_id": drawn}
                gone = await tx.execute(update(lines).where(*rest).values(left))
                values["failed"] = batches.c.failed + gone.rowcount
            else:
                values["status"] = "finalizing"
            running = batches.c.finalizing_at.is_(None)
            await tx.execute(update(batches).where(*self._this, running).values(values))

    async def answered(self, state: str) -> AsyncGenerator[AnsweredLine]:
        """Yield the lines in one state, in order."""
        last = 0
        while True:
            where = (*self._lines, lines.c.state == state, lines.c.line > last)
            query = select(lines).where(*where).order_by(lines.c.line).limit(_PAGE)
            async with self._control.connect() as tx:
                rows = (await tx.execute(query)).all()
            for row in rows:
                fields = {name: getattr(row, name) for name in LineAnswer.__dataclass_fields__}
                yield AnsweredLine(row.line, row.custom_id, LineAnswer(**fields))
            if not rows:
                return
            last = rows[-1].line

    async def end(self, status: str, errors: list[BatchError] | None = None) -> None:
        """End the batch; its lines are in its files by now."""
        values = {"status": status, "ended_at": func.now(), "errors": errors}
        async with self._held() as tx:
            await tx.execute(delete(lines).where(*self._lines))
            await tx.execute(update(batches).where(*self._this).values(values))

    @asynccontextmanager
    async def _held(self) -> AsyncGenerator[AsyncConnection]:
        async with self._control.begin() as tx:
            await effects.hold(tx, self._tenant, self._lease)
            yield tx
