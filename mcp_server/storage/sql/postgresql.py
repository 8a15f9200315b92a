"""The tenants' own SQL on PostgreSQL 15 and newer: a login role, a schema and a read-only twin per tenant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mcp_server.errors import InvalidInput, LimitExceeded, Timeout, Unavailable
from mcp_server.storage.sql import Checked, Detail, EffectKey, Page, SqlResult
from mcp_server.storage.sql.connections import Connections, Role
from mcp_server.storage.sql.failures import hide, translate
from mcp_server.storage.sql.owner import Owner
from mcp_server.storage.sql.tenant_effects import Mark
from mcp_server.storage.sql.values import PgType, decoder, encode
from mcp_server.storage.sql.wire import (
    ConnectionLost,
    LoginRefused,
    PostgresError,
    ResponseTooLarge,
    Session,
)

# Rows arrive in batches whose size follows from the rows seen so far; the first is a guess.
FIRST_BATCH = 8
LARGEST_BATCH = 1000
# What one batch may bring over the wire before the connection is cut.
BATCH_BYTES = 16 * 1024 * 1024
IDLE_IN_TRANSACTION = "10s"

_FIXED_SETTINGS = {
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
    # One tenant's statement takes one core, and compiling a small one costs more than it saves.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}


@dataclass(frozen=True, slots=True)
class _Statement:
    """One call of `run`; `mark` is there if it is an effect that is done once."""

    schema: str
    checked: Checked
    params: Sequence[Any]
    page: Page
    mark: Mark | None

    @property
    def begin(self) -> str:
        if not self.checked.writable:
            return "begin read only"
        # A marked statement must see what its twin has committed while it waited for it.
        return "begin" if self.mark is None else "begin isolation level read committed"


@asynccontextmanager
async def open_postgresql(
    data_url: str, secret: bytes, *, connections: int = 32, timeout_seconds: float = 30.0
) -> AsyncGenerator[PostgresqlEngine]:
    """Yield the engine; it connects on first use.

    `data_url` names a database that is this server's alone, and a role that owns it and may create
    roles. The tenants' passwords are derived from `secret`.
    """
    owner = Owner(data_url, secret)
    engine = PostgresqlEngine(data_url, owner, connections, timeout_seconds)
    try:
        yield engine
    finally:
        await engine.aclose()
        await owner.aclose()


class PostgresqlEngine:
    """See `SqlEngine`. Made by `open_postgresql`."""

    def __init__(
        self, data_url: str, owner: Owner, connections: int, timeout_seconds: float
    ) -> None:
        self._data_url = data_url
        self._owner = owner
        self._timeout = timeout_seconds
        self._connections = Connections(self._connect, connections)

    @property
    def url(self) -> str:
        return self._data_url

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def ping(self) -> None:
        await self._owner.ping()

    async def check(self, schema: str, sql: str, *, writable: bool) -> Checked:
        # The parser costs a tenth of a second to import, and not every start runs SQL.
        from mcp_server.storage.sql.statements.check import check

        known = await self._owner.catalog()
        return check(sql, schema, writable=writable, reserved=known.reserved)

    async def describe(self, schema: str, pattern: str, detail: Detail) -> list[dict[str, Any]]:
        return await self._owner.describe(schema, pattern, detail)

    async def fence(self, run: str, attempt: int) -> None:
        await self._owner.fence(run, attempt)

    async def purge_effects(self, seconds: float) -> int:
        return await self._owner.purge_effects(seconds)

    async def run(
        self,
        schema: str,
        statement: Checked,
        params: Sequence[Any],
        page: Page,
        effect: EffectKey | None = None,
    ) -> SqlResult:
        call = _Statement(
            schema, statement, params, page, self._mark(schema, statement, params, effect)
        )
        try:
            async with asyncio.timeout(self._timeout):
                return await self._run(call)
        except TimeoutError as error:
            raise Timeout(
                f"sql: the statement did not finish within {self._timeout:g} s and was cancelled; "
                "make it smaller"
            ) from error
        except PostgresError as error:
            raise translate(error, schema, positions=not statement.edited) from error
        except ResponseTooLarge as error:
            raise LimitExceeded(
                f"sql: a few rows alone are larger than {BATCH_BYTES} bytes; "
                "select fewer columns or a part of them",
                param="sql",
            ) from error

    def _mark(
        self, schema: str, statement: Checked, params: Sequence[Any], effect: EffectKey | None
    ) -> Mark | None:
        if effect is None or not statement.effects:
            return None
        return Mark.of(self._owner.roles.proof(schema), effect, statement.sql, params)

    async def _run(self, call: _Statement) -> SqlResult:
        role = Role(call.schema, call.checked.writable)
        for last in (False, True):
            begun = False
            try:
                async with self._connections.borrow(role) as session:
                    await session.command(call.begin)
                    begun = True
                    result = await self._once(session, call)
                    await session.command("commit")
                    return result
            except LoginRefused as error:
                if last:
                    raise Unavailable("the data database refuses this tenant's role") from error
                await self._owner.ensure(call.schema, renew=True)
            except ConnectionLost as error:
                if begun and call.checked.effects:
                    raise Unavailable(
                        "the connection to the data database broke while the statement ran; "
                        "see whether it took effect before you send it again"
                    ) from error
                # An idle connection may have died with a restart of the server; a new one has not.
                if begun or last:
                    raise Unavailable("the data database does not answer; try again") from error
        raise AssertionError("unreachable")

    async def _once(self, session: Session, call: _Statement) -> SqlResult:
        """Run the statement, unless its mark says that it has run."""
        if call.mark is None:
            return await self._answer(session, call)
        done = await call.mark.begin(session)
        if done is not None:
            return done
        result = await self._answer(session, call)
        await call.mark.finish(session, result)
        return result

    async def _answer(self, session: Session, call: _Statement) -> SqlResult:
        parameters, columns = await session.prepare(call.checked.sql)
        if len(parameters) != len(call.params):
            raise InvalidInput(
                f"params: the statement takes {len(parameters)} and {len(call.params)} were given; "
                "give one for each of $1, $2, …",
                param="params",
            )
        oids = {*parameters, *(column.oid for column in columns)}
        types = await self._owner.types(call.schema, oids)
        arguments = [
            encode(value, types[oid], f"params[{index}]")
            for index, (value, oid) in enumerate(zip(call.params, parameters, strict=True))
        ]
        if not columns:
            return SqlResult([], [], await session.execute(arguments), more=False)
        await session.bind(arguments, call.page.skip)
        rows, more = await _rows(session, [types[column.oid] for column in columns], call.page)
        if call.checked.kind == "explain":
            rows = [[_plan(cell, call.schema) for cell in row] for row in rows]
        names = [(column.name, types[column.oid].name) for column in columns]
        return SqlResult(names, rows, len(rows), more)

    async def _connect(self, role: Role) -> Session:
        await self._owner.ensure(role.schema)
        milliseconds = int(self._timeout * 1000)
        settings = _FIXED_SETTINGS | {
            "search_path": role.schema,
            "default_transaction_read_only": "off" if role.writable else "on",
            # Behind the client's own limit, in case the client dies.
            "statement_timeout": str(milliseconds + 1000),
            # A process that stands still holds its row locks and its marks no longer than this.
            "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION,
        }
        return await Session.open(
            self._data_url,
            self._owner.roles.name(role),
            self._owner.roles.password(role),
            settings,
            limit=BATCH_BYTES,
        )


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
