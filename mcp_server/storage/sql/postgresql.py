"""The tenants' own SQL on PostgreSQL 15 and newer: a login role, a schema and a read-only twin per tenant."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mcp_server.errors import InvalidInput, LimitExceeded, Timeout, Unavailable
from mcp_server.storage.sql import Checked, Detail, Page, SqlResult, catalog
from mcp_server.storage.sql.connections import Connections, Role
from mcp_server.storage.sql.failures import hide, translate
from mcp_server.storage.sql.fence import Catalog, raise_fence
from mcp_server.storage.sql.tenant_roles import TenantRoles
from mcp_server.storage.sql.values import PgType, decoder, encode
from mcp_server.storage.sql.wire import (
    ConnectionLost,
    LoginRefused,
    PostgresError,
    ResponseTooLarge,
    Session,
)

logger = logging.getLogger(__name__)

# Rows arrive in batches whose size follows from the rows seen so far; the first is a guess.
FIRST_BATCH = 8
LARGEST_BATCH = 1000
# What one batch may bring over the wire before the connection is cut.
BATCH_BYTES = 32 * 1024 * 1024
OWNER_CONNECTIONS = 2

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


@asynccontextmanager
async def open_postgresql(
    data_url: str, secret: bytes, *, connections: int = 32, timeout_seconds: float = 30.0
) -> AsyncGenerator[PostgresqlEngine]:
    """Yield the engine; it connects on first use.

    `data_url` names a database that is this server's alone, and a role that owns it and may create
    roles. The tenants' passwords are derived from `secret`.
    """
    url = make_url(data_url).set(drivername="postgresql+asyncpg")
    owner = create_async_engine(
        url,
        pool_size=OWNER_CONNECTIONS,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={"timeout": 10, "server_settings": {"application_name": "isthmus owner"}},
    )
    roles = TenantRoles(secret, url.database or url.username or "postgres")
    engine = PostgresqlEngine(data_url, owner, roles, connections, timeout_seconds)
    try:
        yield engine
    finally:
        await engine.aclose()
        await owner.dispose()


class PostgresqlEngine:
    """See `SqlEngine`. Made by `open_postgresql`."""

    def __init__(
        self,
        data_url: str,
        owner: AsyncEngine,
        roles: TenantRoles,
        connections: int,
        timeout_seconds: float,
    ) -> None:
        self._data_url = data_url
        self._owner_engine = owner
        self._roles = roles
        self._timeout = timeout_seconds
        self._connections = Connections(self._connect, connections)
        self._catalog: Catalog | None = None
        self._preparing = asyncio.Lock()
        self._made: set[str] = set()

    @property
    def url(self) -> str:
        return self._data_url

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def ping(self) -> None:
        async with self._owner() as owner:
            await owner.execute(text("select 1"))

    async def check(self, schema: str, sql: str, *, writable: bool) -> Checked:
        # The parser costs a tenth of a second to import, and not every start runs SQL.
        from mcp_server.storage.sql.statements.check import check

        known = await self._prepared()
        return check(sql, schema, writable=writable, reserved=known.reserved)

    async def describe(self, schema: str, pattern: str, detail: Detail) -> list[dict[str, Any]]:
        async with self._owner() as owner:
            return await catalog.describe(owner, schema, pattern, detail)

    async def run(
        self, schema: str, statement: Checked, params: Sequence[Any], page: Page
    ) -> SqlResult:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._run(schema, statement, params, page)
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

    async def _run(
        self, schema: str, statement: Checked, params: Sequence[Any], page: Page
    ) -> SqlResult:
        role = Role(schema, statement.writable)
        begun = False
        for last in (False, True):
            try:
                async with self._connections.borrow(role) as session:
                    await session.command("begin" if statement.writable else "begin read only")
                    begun = True
                    result = await self._answer(session, schema, statement, params, page)
                    await session.command("commit")
                    return result
            except LoginRefused as error:
                if last:
                    raise Unavailable("the data database refuses this tenant's role") from error
                await self._make(schema, renew=True)
            except ConnectionLost as error:
                if begun and statement.effects:
                    raise Unavailable(
                        "the connection to the data database broke while the statement ran; "
                        "see whether it took effect before you send it again"
                    ) from error
                # An idle connection may have died with a restart of the server; a new one has not.
                if begun or last:
                    raise Unavailable("the data database does not answer; try again") from error
        raise AssertionError("unreachable")

    async def _answer(
        self, session: Session, schema: str, statement: Checked, params: Sequence[Any], page: Page
    ) -> SqlResult:
        parameters, columns = await session.prepare(statement.sql)
        if len(parameters) != len(params):
            raise InvalidInput(
                f"params: the statement takes {len(parameters)} and {len(params)} were given; "
                "give one for each of $1, $2, …",
                param="params",
            )
        oids = {*parameters, *(column.oid for column in columns)}
        types = await self._types(schema, oids)
        arguments = [
            encode(value, types[oid], f"params[{index}]")
            for index, (value, oid) in enumerate(zip(params, parameters, strict=True))
        ]
        if not columns:
            return SqlResult([], [], await session.execute(arguments), more=False)
        await session.bind(arguments, page.skip)
        rows, more = await _rows(session, [types[column.oid] for column in columns], page)
        if statement.kind == "explain":
            rows = [
                [hide(cell, schema) if isinstance(cell, str) else cell for cell in row]
                for row in rows
            ]
        names = [(column.name, types[column.oid].name) for column in columns]
        return SqlResult(names, rows, len(rows), more)

    async def _types(self, schema: str, oids: Iterable[int]) -> dict[int, PgType]:
        """Return the types; the catalog is asked only about those that tenants made."""
        known = (await self._prepared()).types
        unknown = [oid for oid in oids if oid not in known]
        if not unknown:
            return known
        async with self._owner() as owner:
            return known | await catalog.types(owner, schema, unknown)

    async def _connect(self, role: Role) -> Session:
        await self._prepared()
        if role.schema not in self._made:
            await self._make(role.schema)
        milliseconds = int(self._timeout * 1000)
        settings = _FIXED_SETTINGS | {
            "search_path": role.schema,
            "default_transaction_read_only": "off" if role.writable else "on",
            # Behind the client's own limit, in case the client dies.
            "statement_timeout": str(milliseconds + 1000),
            "idle_in_transaction_session_timeout": str(milliseconds + 5000),
        }
        return await Session.open(
            self._data_url,
            self._roles.name(role),
            self._roles.password(role),
            settings,
            limit=BATCH_BYTES,
        )

    async def _make(self, schema: str, *, renew: bool = False) -> None:
        superuser = (await self._prepared()).superuser
        async with self._owner() as owner:
            await self._roles.ensure(owner, schema, superuser=superuser, renew=renew)
        self._made.add(schema)

    async def _prepared(self) -> Catalog:
        """Return what the catalog says, after the fence stands: once per process."""
        if self._catalog is None:
            async with self._preparing:
                if self._catalog is None:
                    async with self._owner() as owner:
                        self._catalog = await raise_fence(owner)
        return self._catalog

    @asynccontextmanager
    async def _owner(self) -> AsyncGenerator[AsyncConnection]:
        """Yield a transaction of the owner.

        Raises:
            Unavailable: the database does not answer, or refuses its owner.
        """
        try:
            async with self._owner_engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            logger.exception("the data database fails its owner")
            raise Unavailable("the data database does not answer; try again") from error


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
