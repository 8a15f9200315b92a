"""One checked statement on an open session: its rows as JSON within the page, or a preview of what it would change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from mcp_server.errors import InvalidInput, LimitExceeded, Timeout
from mcp_server.storage.sql import Checked, Page, SqlChange, SqlPreview, SqlResult
from mcp_server.storage.sql.failures import hide, translate
from mcp_server.storage.sql.values import PgType, decoder, encode
from mcp_server.storage.sql.wire import PostgresError, ResponseTooLarge, Session

# Rows arrive in batches whose size follows from the rows seen so far; the first is a guess.
FIRST_BATCH = 8
LARGEST_BATCH = 1000
# What one batch may bring over the wire before the connection is cut.
BATCH_BYTES = 16 * 1024 * 1024
# How much of what a statement would change a preview shows.
PREVIEW_ROWS = 20
PREVIEW_BYTES = 256 * 1024

BROKEN = (
    "the connection to the database broke while the statement ran; "
    "see whether it took effect before you send it again"
)

FIXED_SETTINGS = {
    "application_name": "isthmus",
    # The parser reads literals this way, so the server must too.
    "standard_conforming_strings": "on",
    "client_encoding": "utf-8",
    "client_min_messages": "error",
    "datestyle": "ISO, MDY",
    "intervalstyle": "iso_8601",
    "timezone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    # One statement takes one core, and compiling a small one costs more than it saves.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    # A process that stands still holds its row locks and its marks no longer than this.
    "idle_in_transaction_session_timeout": "10s",
}


@dataclass(frozen=True, slots=True)
class Execution:
    """One call of `run` or `preview`. `types` looks types up by OID."""

    schema: str
    checked: Checked
    params: Sequence[Any]
    page: Page
    types: Callable[[set[int]], Awaitable[dict[int, PgType]]]

    async def answer(self, session: Session) -> SqlResult:
        """Run the statement in the session's transaction."""
        columns, affected = await self._open(session, self.checked.sql)
        if not columns:
            return SqlResult([], [], affected, more=False)
        rows, more = await _rows(session, [type_ for _, type_ in columns], self.page)
        if self.checked.kind == "explain":
            rows = [[_plan(cell, self.schema) for cell in row] for row in rows]
        return SqlResult([(name, type_.name) for name, type_ in columns], rows, len(rows), more)

    async def preview(self, session: Session, *, sample: bool) -> SqlPreview:
        """Run the statement, which the caller rolls back, and tell what it would change.

        With `sample`, a statement without rows of its own shows some of the rows that it changes.
        """
        from mcp_server.storage.sql.statements.sampling import sampling

        sampled = sampling(self.checked, session.server_version) if sample else None
        if sampled is None:
            result = await self.answer(session)
            if result.more:
                result = replace(result, row_count=await session.count())
            shown = SqlPreview(result, [], [], more=False)
        else:
            shown = await self._sampled(session, sampled)
        # What a commit would still check is part of the answer.
        await session.command("set constraints all immediate")
        return shown

    async def _sampled(self, session: Session, sql: str) -> SqlPreview:
        columns, _ = await self._open(session, sql)
        page = Page(PREVIEW_ROWS, PREVIEW_BYTES)
        try:
            rows, more = await _rows(session, [type_ for _, type_ in columns], page)
        except LimitExceeded:  # one row alone is too large to show
            rows, more = [], True
        count = await session.count() if more else len(rows)
        half = len(columns) // 2
        changes = [SqlChange(_image(row[:half]), _image(row[half:])) for row in rows]
        names = [(name, type_.name) for name, type_ in columns[:half]]
        return SqlPreview(SqlResult([], [], count, more=False), names, changes, more=more)

    async def _open(self, session: Session, sql: str) -> tuple[list[tuple[str, PgType]], int]:
        """Open a statement and return its columns; one without any is run: how many rows it affected."""
        parameters, columns = await session.prepare(sql)
        if len(parameters) != len(self.params):
            raise InvalidInput(
                f"params: the statement takes {len(parameters)} and {len(self.params)} were given; "
                "give one for each of $1, $2, …",
                param="params",
            )
        types = await self.types({*parameters, *(column.oid for column in columns)})
        arguments = [
            encode(value, types[oid], f"params[{index}]")
            for index, (value, oid) in enumerate(zip(self.params, parameters, strict=True))
        ]
        if not columns:
            return [], await session.execute(arguments)
        await session.bind(arguments, self.page.skip)
        return [(column.name, types[column.oid]) for column in columns], 0


@asynccontextmanager
async def bounded(
    seconds: float, schema: str, checked: Checked, *, outside: bool = False
) -> AsyncGenerator[None]:
    """Run the body as one statement: within the time limit, its failures the caller's.

    Raises:
        AppError: what PostgreSQL said. Timeout: it ran too long. LimitExceeded: its rows are too large.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Timeout(
            f"sql: the statement did not finish within {seconds:g} s and was cancelled; "
            "make it smaller"
        ) from error
    except PostgresError as error:
        raise translate(error, schema, positions=not checked.edited, outside=outside) from error
    except ResponseTooLarge as error:
        raise LimitExceeded(
            f"sql: a few rows alone are larger than {BATCH_BYTES} bytes; "
            "select fewer columns or a part of them",
            param="sql",
        ) from error


def _image(row: list[Any]) -> list[Any] | None:
    """A row that was not there, or is not any more, comes as nothing but NULLs."""
    return row if any(cell is not None for cell in row) else None


async def _rows(
    session: Session, types: Sequence[PgType], page: Page
) -> tuple[list[list[Any]], bool]:
    """Return the rows that fit the page, and whether there are more."""
    decoders = [decoder(type_) for type_ in types]
    rows: list[list[Any]] = []
    size = 0
    count = min(page.rows + 1, FIRST_BATCH)
    while True:
        batch = await session.fetch(count)
        for texts in batch:
            size += sum(3 if text_ is None else len(text_) + 3 for text_ in texts)
            if len(rows) == page.rows or size > page.bytes:
                return _some(rows, page), True
            rows.append(
                [
                    None if text_ is None else decode(text_)
                    for decode, text_ in zip(decoders, texts, strict=True)
                ]
            )
        if len(batch) < count:
            return rows, False
        fitting = (page.bytes - size) * len(rows) // max(size, 1) + 1
        count = min(page.rows + 1 - len(rows), fitting, LARGEST_BATCH)


def _some(rows: list[list[Any]], page: Page) -> list[list[Any]]:
    if not rows:
        raise LimitExceeded(
            f"sql: the next row alone is larger than {page.bytes} bytes; "
            "select fewer columns or a part of them",
            param="sql",
        )
    return rows


def _plan(cell: Any, schema: str) -> Any:
    """Return a cell of EXPLAIN without the schema's real name; FORMAT JSON arrives decoded."""
    if isinstance(cell, str):
        return hide(cell, schema)
    return json.loads(hide(json.dumps(cell), schema))
