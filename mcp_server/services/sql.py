"""The tenants' own SQL: each statement one operation on the tables it touches, writes journalled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import TypedDict

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, InvalidInput, LeaseLost, NotFound, Timeout, Unavailable
from mcp_server.operation import Operation, Operations
from mcp_server.placement import Placements
from mcp_server.services import names
from mcp_server.services.sql_call import DEFAULT_ROWS, SqlCall, SqlRows, refuse_database
from mcp_server.services.sql_journal import StatementJournal, label
from mcp_server.storage.sql import Checked, Detail, EffectKey, SqlEngine

# How the caller's own schema is called in every URI and statement.
OWN = "sql://main/"


class SqlTables(TypedDict):
    tables: list[dict[str, Any]]


class SqlService:
    """Every statement opens an operation on `sql://main/TABLE` for each table that it names.

    One that names none is an operation on `sql://main/*`.
    """

    def __init__(self, operation: Operations, control: AsyncEngine, engine: SqlEngine) -> None:
        self._operation = operation
        self._control = control
        self._engines = {engine.url: engine}
        self._place = Placements(engine.url)

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
            LimitExceeded: one row alone is too large. Timeout: it ran too long.
        """
        call = SqlCall(principal.tenant, sql, params, max_rows, cursor, database)
        engine, schema = self._located(principal)
        checked = await self._checked(principal, engine, schema, sql, writable=False)
        async with self._opened(principal, checked, None, deadline, ()):
            result = await engine.run(schema, checked, call.params, call.page(checked))
        return call.answer(checked, result)

    async def execute(
        self,
        principal: Principal,
        sql: str,
        params: Sequence[Any] | None = None,
        *,
        max_rows: int = DEFAULT_ROWS,
        cursor: str | None = None,
        database: str | None = None,
        deadline: float | None = None,
        key: str | None = None,
    ) -> SqlRows:
        """Run one statement that may write, and commit it. Arguments and values as for `query`.

        The journal gets, for each table written, an `intent` before the statement and a `write` after its
        commit, or `abort` if it certainly did not take effect. An intent with neither means that the
        server died or lost the database in between.

        With `key`, a statement that writes takes effect once: a repetition returns the first answer
        (without its rows if they have over 1 MiB), and journals only what its predecessor could not.

        Raises:
            Conflict: a constraint, an existing object or another transaction stands against it; or the
                key's run is held by another worker. As `query` otherwise.
        """
        call = SqlCall(principal.tenant, sql, params, max_rows, cursor, database)
        engine, schema = self._located(principal)
        checked = await self._checked(principal, engine, schema, sql, writable=True)
        page = call.page(checked)
        statement = label(key, sql)
        async with self._opened(principal, checked, key, deadline, (statement,)) as written:
            if not written:
                return call.answer(checked, await engine.run(schema, checked, call.params, page))
            entries = StatementJournal(self._control, written, statement)
            await entries.intend()
            try:
                result = await engine.run(schema, checked, call.params, page, _effect(written[0]))
            except (Unavailable, Timeout, LeaseLost):
                raise  # it may have been committed: the intent stands alone
            except AppError:
                await entries.settle("abort")
                raise
            await entries.settle("write")
        return call.answer(checked, result)

    async def raise_fence(self, run: str, attempt: int) -> None:
        """Refuse from now on what attempts of `run` before `attempt` commit with its steps' keys.

        For the run engine, before it goes on with a run that another worker held: when this returns,
        everything that worker's statements did is there, and nothing more will come.

        Raises:
            LeaseLost: a newer attempt was here already. Unavailable: a data database does not answer.
        """
        for engine in self._engines.values():
            await engine.fence(run, attempt)

    async def purge_effects(self, seconds: float) -> int:
        """Forget what keys older than `seconds` have done, some thousands a call; return how many."""
        return sum([await engine.purge_effects(seconds) for engine in self._engines.values()])

    async def schema(
        self,
        principal: Principal,
        pattern: str | None = None,
        detail: Detail = "summary",
        *,
        database: str | None = None,
        deadline: float | None = None,
    ) -> SqlTables:
        """Return the caller's tables and views whose name fits `pattern` (`*` and `%`: anything).

        names: name and kind. summary: also columns, estimated rows, comment. full: also defaults,
        constraints, indexes and view definitions.

        Raises:
            InvalidInput: the pattern or the detail does not fit.
        """
        refuse_database(database)
        if detail not in ("names", "summary", "full"):
            raise InvalidInput(f"detail: {detail!r} is not names, summary or full", param="detail")
        wanted = names.prefix(pattern, "pattern") or "*"
        engine, schema = self._located(principal)
        async with self._operation(principal, "read", policy.Listing(OWN), deadline=deadline):
            tables = await engine.describe(schema, wanted, detail)
        return SqlTables(
            tables=[item for item in tables if policy.allows(principal, "read", OWN + item["name"])]
        )

    async def table(self, principal: Principal, schema: str, table: str) -> dict[str, Any]:
        """Return one table in full, with its first rows: what the resource `sql://main/TABLE` shows.

        Raises:
            NotFound: there is no such table, or it is not in the caller's own schema `main`.
        """
        engine, own = self._located(principal)
        async with self._operation(principal, "read", OWN + _possible(table)):
            named = await engine.describe(own, table, "full") if schema == "main" else []
        found = [item for item in named if item["name"] == table]
        if not found:
            raise NotFound(f"the table {table!r} does not exist in the schema {schema!r}")
        quoted = table.replace('"', '""')
        sql = f'select * from "{quoted}"'  # noqa: S608  quoted, and checked as any other statement
        rows = await self.query(principal, sql, max_rows=100)
        return found[0] | {"rows": rows["rows"], "truncated": rows["truncated"]}

    def _located(self, principal: Principal) -> tuple[SqlEngine, str]:
        placement = self._place(principal.tenant)
        return self._engines[placement.url], placement.schema

    async def _checked(
        self, principal: Principal, engine: SqlEngine, schema: str, sql: str, *, writable: bool
    ) -> Checked:
        try:
            return await engine.check(schema, sql, writable=writable)
        except AppError:
            # A refused statement names no table that could be trusted: the audit shows it on all.
            async with self._operation(
                principal, "write" if writable else "read", policy.Listing(OWN)
            ):
                raise

    @asynccontextmanager
    async def _opened(
        self,
        principal: Principal,
        checked: Checked,
        key: str | None,
        deadline: float | None,
        labels: tuple[str, ...],
    ) -> AsyncGenerator[list[Operation]]:
        """Open the operations of a statement; yield those that write."""
        uris: list[tuple[policy.Verb, str]] = [
            *(("write", OWN + name) for name in sorted(checked.writes)),
            *(("read", OWN + name) for name in sorted(checked.reads)),
        ]
        if checked.effects and not checked.writes:
            uris.append(("write", policy.Listing(OWN)))  # locks rows or moves a sequence
        if not uris:
            uris.append(("read", policy.Listing(OWN)))
        async with AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(
                    self._operation(principal, verb, uri, key=key, deadline=deadline, labels=labels)
                )
                for verb, uri in uris
            ]
            yield opened[: len(checked.writes)]


def _effect(operation: Operation) -> EffectKey | None:
    if operation.key is None:
        return None
    if operation.lease is None:
        return EffectKey(operation.key)
    return EffectKey(operation.key, operation.lease.run, operation.lease.attempt)


def _possible(table: str) -> str:
    """Return a name that a table may have in PostgreSQL: up to 63 bytes of any text but U+0000.

    Raises:
        NotFound: no table can be called so.
    """
    encoded = table.encode("utf-8", "replace")
    if not 0 < len(encoded) <= 63 or "\0" in table or encoded.decode() != table:
        raise NotFound(f"table {table[:80]!r} does not exist", param="table")
    return table
