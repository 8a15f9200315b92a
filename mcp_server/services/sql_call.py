"""The arguments of one SQL call, checked, and its answer with the cursor that continues it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NotRequired

from typing_extensions import TypedDict

from mcp_server.errors import InvalidInput
from mcp_server.services.sql_places import MAIN
from mcp_server.storage.sql import Checked, Page, SqlPreview, SqlResult

DEFAULT_ROWS = 1000
MAX_ROWS = 10_000
MAX_BYTES = 4 * 1024 * 1024
MAX_PARAMS = 32_767  # asyncpg's limit; the protocol's is 65,535


PREVIEW_NOTE = (
    "nothing was kept: it ran in a transaction that was rolled back; "
    "numbers that sequences gave out meanwhile are not given again"
)


class SqlColumn(TypedDict):
    name: str
    type: str


class SqlChanged(TypedDict):
    """One row as it was and as it would be; null where there is none."""

    before: list[Any] | None
    after: list[Any] | None


class SqlPreviewed(TypedDict):
    """What a previewed statement would change: `tables` it writes, some rows of them in `changes`."""

    tables: list[str]
    columns: list[SqlColumn]
    changes: list[SqlChanged]
    truncated: bool
    note: str


class SqlRows(TypedDict):
    """`row_count`: rows returned, or affected if the statement returns none."""

    columns: list[SqlColumn]
    rows: list[list[Any]]
    row_count: int
    truncated: bool
    next_cursor: str | None


class SqlOutcome(SqlRows):
    """`preview` is there if the statement was previewed, and so not kept."""

    preview: NotRequired[SqlPreviewed]


class SqlCall:
    """One call of `sql_query` or `sql_execute`.

    A cursor is the number of rows already seen, bound to tenant, statement and parameters by a digest. It
    grants nothing: the statement is checked and run again as any other.

    Raises:
        InvalidInput: an argument is out of range, or the cursor is another statement's.
    """

    def __init__(
        self,
        tenant: str,
        sql: str,
        params: Sequence[Any] | None,
        max_rows: int,
        cursor: str | None = None,
        database: str | None = None,
    ) -> None:
        if not 1 <= max_rows <= MAX_ROWS:
            raise InvalidInput(
                f"max_rows: {max_rows} is not within 1-{MAX_ROWS}; use next_cursor for more",
                param="max_rows",
            )
        self.params = list(params or ())
        if len(self.params) > MAX_PARAMS:
            raise InvalidInput(
                f"params: {len(self.params)} are more than the {MAX_PARAMS} allowed", param="params"
            )
        self._max_rows = max_rows
        given = json.dumps([tenant, database or MAIN, sql, self.params], ensure_ascii=True)
        self._digest = hashlib.sha256(given.encode()).hexdigest()[:16]
        self._skip = self._decoded(cursor) if cursor is not None else 0

    def _decoded(self, cursor: str) -> int:
        try:
            digest, _, skip = base64.urlsafe_b64decode(cursor + "==").decode().partition(".")
            if digest == self._digest and skip.isdecimal() and len(skip) <= 9:
                return int(skip)
        except ValueError:
            pass
        raise InvalidInput(
            "cursor: it does not belong to this statement; "
            "pass next_cursor with the same sql and params",
            param="cursor",
        )

    def page(self, checked: Checked) -> Page:
        """Return which rows to fetch.

        Raises:
            InvalidInput: a cursor for a statement that must not run again.
        """
        if self._skip and not checked.repeatable:
            raise InvalidInput(
                "cursor: only a SELECT without effects can be continued", param="cursor"
            )
        return Page(self._max_rows, MAX_BYTES, self._skip)

    def answer(self, checked: Checked, result: SqlResult) -> SqlOutcome:
        cursor = None
        if result.more and checked.repeatable:
            position = f"{self._digest}.{self._skip + len(result.rows)}"
            cursor = base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")
        return SqlOutcome(
            columns=[SqlColumn(name=name, type=type_) for name, type_ in result.columns],
            rows=result.rows,
            row_count=result.row_count,
            truncated=result.more,
            next_cursor=cursor,
        )

    def previewed(self, checked: Checked, shown: SqlPreview) -> SqlOutcome:
        """Return the answer of a statement that was taken back."""
        rows = self.answer(replace(checked, kind="preview"), shown.result)
        rows["preview"] = SqlPreviewed(
            tables=sorted(checked.writes),
            columns=[SqlColumn(name=name, type=type_) for name, type_ in shown.columns],
            changes=[SqlChanged(before=item.before, after=item.after) for item in shown.changes],
            truncated=shown.more,
            note=PREVIEW_NOTE,
        )
        return rows
