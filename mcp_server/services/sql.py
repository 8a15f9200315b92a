"""SQL of callers: each statement one operation on the tables it touches, writes journalled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, InvalidInput, LeaseLost, Timeout, Unavailable
from mcp_server.operation import Operation, Operations
from mcp_server.services import sql_schema
from mcp_server.services.sql_call import DEFAULT_ROWS, SqlCall, SqlOutcome, SqlRows
from mcp_server.services.sql_journal import StatementJournal, label
from mcp_server.services.sql_once import OutsideOnce
from mcp_server.services.sql_places import Place, Places, Statement, check
from mcp_server.services.sql_plan import SqlPlan, sql_plan
from mcp_server.services.sql_schema import SqlTables
from mcp_server.storage.sql import (
    Checked,
    Detail,
    EffectKey,
    OutsideDatabase,
    Page,
    SqlEngine,
    SqlResult,
)
from mcp_server.storage.sql.statements.planning import explained

_ONE_PLAN = Page(rows=1, bytes=4 * 1024 * 1024)


class SqlService:
    """Every statement opens an operation on `sql://main/TABLE` for each table that it names.

    One that names none is an operation on `sql://main/*`. In the database NAME of the operator's the
    URIs are `sql://NAME/SCHEMA.TABLE`. `database` is such a name, None for the caller's own schema.
    """

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        engine: SqlEngine,
        outside: Mapping[str, OutsideDatabase] | None = None,
    ) -> None:
        self._operation = operation
        self._control = control
        self._places = Places(engine, outside or {})

    async def query(
        self,
        principal: Principal,
        sql: str,
        params: Sequence[Any] | None = None,
        *,
        max_rows: int = DEFAULT_ROWS,
        cursor: str | None = None,
        database: str | None = None,
        deadline: float | None = None,
    ) -> SqlRows:
        """Run one statement that reads, in a read-only transaction of a role that can only read.

        `params` are JSON values for $1, $2, …; a string is PostgreSQL's text form of any type. `cursor`
        continues an earlier answer by running the same statement again and leaving out the rows
        already seen: it needs an ORDER BY, and sees what changed in between. Values in the rows: numeric
        as text, timestamps as ISO 8601, bytea as `\\x…`, NaN and infinities as text.

        Raises:
            InvalidInput: an argument does not fit, or PostgreSQL refuses the statement.
            Forbidden: the statement writes, or uses what is not on offer.
            NotFound: there is no such database for this caller.
            LimitExceeded: one row alone is too large. Timeout: it ran too long.
        """
        call = SqlCall(principal.tenant, sql, params, max_rows, cursor, database)
        place = self._places(principal, database)
        checked = await check(self._operation, principal, place, sql, writable=False)
        page = call.page(checked)
        async with self._statement(principal, place, checked, deadline).opened():
            result = await place.database.run(place.schema, checked, call.params, page)
        return call.answer(checked, result)

    async def check(
        self, principal: Principal, sql: str, *, writable: bool, database: str | None = None
    ) -> None:
        """Return if the statement may run; nothing of it is run.

        Raises: as `query`.
        """
        place = self._places(principal, database)
        await check(self._operation, principal, place, sql, writable=writable)

    async def execute(
        self,
        principal: Principal,
        sql: str,
        params: Sequence[Any] | None = None,
        *,
        max_rows: int = DEFAULT_ROWS,
        cursor: str | None = None,
        database: str | None = None,
        preview: bool = False,
        deadline: float | None = None,
        key: str | None = None,
    ) -> SqlOutcome:
        """Run one statement that may write, and commit it. Arguments and values as for `query`.

        The journal gets, for each table written, an `intent` before the statement and a `write` after its
        commit, or `abort` if it certainly did not take effect. An intent with neither means that the
        server died or lost the database in between.

        With `key`, a statement that writes takes effect once: a repetition returns the first answer
        (without its rows if they have over 1 MiB), and journals only what its predecessor could not. In an
        operator's database a repetition whose predecessor's outcome is unknown is refused instead.

        With `preview` it is run within the same rights and limits, and taken back: see `SqlPreviewed`.

        Raises:
            Conflict: a constraint, an existing object or another transaction stands against it; or the
                key's run is held by another worker. As `query` otherwise.
        """
        call = SqlCall(principal.tenant, sql, params, max_rows, cursor, database)
        place = self._places(principal, database)
        checked = await check(self._operation, principal, place, sql, writable=True)
        page = call.page(checked)
        if preview:
            return await self._preview(principal, place, call, checked, page, deadline)
        named = label(key, sql)
        statement = self._statement(principal, place, checked, deadline, key, named)
        async with statement.opened() as written:
            if not written:
                result = await place.database.run(place.schema, checked, call.params, page)
                return call.answer(checked, result)
            entries = StatementJournal(self._control, written, named)
            if place.name is None:
                await entries.intend()
                effect = _effect(written[0])
                result = await self._run(entries, place, checked, call, page, effect)
                await entries.settle("write")
                return call.answer(checked, result)
            once = OutsideOnce(entries, key, call.params)
            done = await once.begin()
            if done is not None:
                return done
            result = await self._run(entries, place, checked, call, page, None)
            return await once.finish(call.answer(checked, result))

    async def _run(
        self,
        entries: StatementJournal,
        place: Place,
        checked: Checked,
        call: SqlCall,
        page: Page,
        effect: EffectKey | None,
    ) -> SqlResult:
        """Run a statement whose intent is journalled; one that certainly failed is settled as such."""
        try:
            return await place.database.run(place.schema, checked, call.params, page, effect)
        except (Unavailable, Timeout, LeaseLost):
            raise  # it may have been committed: the intent stands alone
        except AppError:
            await entries.settle("abort")
            raise

    async def _preview(
        self,
        principal: Principal,
        place: Place,
        call: SqlCall,
        checked: Checked,
        page: Page,
        deadline: float | None,
    ) -> SqlOutcome:
        if checked.draws:
            raise InvalidInput(
                "preview: nextval() and setval() take effect at once, whatever is rolled back; "
                "leave them out, or preview off",
                param="preview",
            )
        statement = self._statement(principal, place, checked, deadline, None, "preview")
        async with statement.opened():
            shown = await place.database.preview(
                place.schema, checked, call.params, page, sample=statement.may_sample
            )
        return call.previewed(checked, shown)

    async def explain(
        self,
        principal: Principal,
        sql: str,
        params: Sequence[Any] | None = None,
        *,
        analyze: bool = False,
        database: str | None = None,
        deadline: float | None = None,
    ) -> SqlPlan:
        """Return PostgreSQL's plan of one statement; it is run only with `analyze`, and then only reads.

        Raises: as `query`.
        """
        call = SqlCall(principal.tenant, sql, params, DEFAULT_ROWS)
        place = self._places(principal, database)
        # Planning changes nothing, whatever the statement says; a read-only database has no other way.
        writable = not analyze and place.writable
        checked = await check(self._operation, principal, place, sql, writable=writable)
        planned = explained(checked, analyze=analyze)
        async with self._statement(principal, place, planned, deadline).opened():
            result = await place.database.run(place.schema, planned, call.params, _ONE_PLAN)
        return sql_plan(result.rows[0][0], analyzed=analyze)

    async def raise_fence(self, run: str, attempt: int) -> None:
        """Refuse from now on what attempts of `run` before `attempt` commit with its steps' keys.

        For the run engine, before it goes on with a run that another worker held: when this returns,
        everything that worker's statements did is there, and nothing more will come.

        Raises:
            LeaseLost: a newer attempt was here already. Unavailable: a data database does not answer.
        """
        for engine in self._places.engines:
            await engine.fence(run, attempt)

    async def purge_effects(self, seconds: float) -> int:
        """Forget what keys older than `seconds` have done, some thousands a call; return how many."""
        return sum([await engine.purge_effects(seconds) for engine in self._places.engines])

    async def schema(
        self,
        principal: Principal,
        pattern: str | None = None,
        detail: Detail = "summary",
        *,
        database: str | None = None,
        deadline: float | None = None,
    ) -> SqlTables:
        """Return the tables and views that fit `pattern` by their name or a column's.

        In the pattern `*` and `%` stand for anything, `?` for one character. What each `detail` shows:
        `storage.sql.catalog.describe`.

        Raises:
            InvalidInput: the pattern or the detail does not fit. NotFound: as `query`.
        """
        wanted = sql_schema.wanted(pattern, detail)
        place = self._places(principal, database)
        return await sql_schema.tables(self._operation, principal, place, wanted, deadline)

    async def table(self, principal: Principal, schema: str, table: str) -> dict[str, Any]:
        """Return one table in full, with its first rows: what the resource `sql://main/TABLE` shows.

        Raises:
            NotFound: there is no such table, or it is not in the caller's own schema `main`.
        """
        place = self._places(principal, None)
        shown = await sql_schema.table(self._operation, principal, place, schema, table)
        quoted = table.replace('"', '""')
        sql = f'select * from "{quoted}"'  # noqa: S608  quoted, and checked as any other statement
        rows = await self.query(principal, sql, max_rows=100)
        return shown | {"rows": rows["rows"], "truncated": rows["truncated"]}

    def _statement(
        self,
        principal: Principal,
        place: Place,
        checked: Checked,
        deadline: float | None,
        key: str | None = None,
        *labels: str,
    ) -> Statement:
        return Statement(self._operation, principal, place, checked, deadline, key, labels)


def _effect(operation: Operation) -> EffectKey | None:
    if operation.key is None:
        return None
    if operation.lease is None:
        return EffectKey(operation.key)
    return EffectKey(operation.key, operation.lease.run, operation.lease.attempt)
