"""An existing database of the operator's, reached as the role of its URL: its tables, its privileges, our limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from mcp_server.errors import ConfigurationError, Unavailable
from mcp_server.storage.sql import (
    Checked,
    EffectKey,
    OutsideDatabase,
    Page,
    SqlPreview,
    SqlResult,
    Wanted,
    catalog,
)
from mcp_server.storage.sql.connections import Connections, Role
from mcp_server.storage.sql.control import DISCONNECTED
from mcp_server.storage.sql.execution import (
    BATCH_BYTES,
    BROKEN,
    FIXED_SETTINGS,
    Execution,
    bounded,
)
from mcp_server.storage.sql.fence import Catalog, read_catalog
from mcp_server.storage.sql.powers import OURS, POWERS
from mcp_server.storage.sql.values import PgType
from mcp_server.storage.sql.wire import (
    ConnectionLost,
    LoginRefused,
    PostgresError,
    Session,
    connect_owner,
)

logger = logging.getLogger(__name__)

CONNECTIONS = 8
# A start does not wait longer for a database that does not answer.
START_SECONDS = 5.0
CATALOG_SECONDS = 30.0

T = TypeVar("T")


class RefusedRole(Exception):
    """The URL's role has powers that no privilege bounds, or the database is our own. The text says which."""


@asynccontextmanager
async def open_outside(
    name: str, url: str, *, schema: str, writable: bool, timeout_seconds: float
) -> AsyncGenerator[OutsideDatabase]:
    """Yield the database; one that does not answer now is connected to when it is needed.

    Raises:
        ConfigurationError: its role is refused, or refuses its password.
    """
    engine = OutsideEngine(name, url, schema, timeout_seconds, writable=writable)
    try:
        await engine.verify()
        yield OutsideDatabase(engine, schema, writable)
    finally:
        await engine.aclose()


class OutsideEngine:
    """See `SqlDatabase`. Made by `open_outside`. No error or log of it shows the URL."""

    def __init__(
        self, name: str, url: str, schema: str, timeout_seconds: float, *, writable: bool
    ) -> None:
        self._name = name
        self._url = url
        self._schema = schema
        self._timeout = timeout_seconds
        self._writable = writable
        self._role = Role(schema, writable=False)
        # One role for all tenants: who may come here is the policy's to say.
        self._connections = Connections(self._connect, CONNECTIONS, CONNECTIONS)
        self._reader = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: connect_owner(url),
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
        )
        self._known: Catalog | None = None

    async def aclose(self) -> None:
        await self._connections.aclose()
        await self._reader.dispose()

    async def verify(self) -> None:
        """Connect once.

        Raises:
            ConfigurationError: the role is refused, or refuses its password.
        """
        setting = f"ISTHMUS_DATABASES: {self._name!r}"
        try:
            async with asyncio.timeout(START_SECONDS), self._connections.borrow(self._role):
                pass
        except RefusedRole as error:
            raise ConfigurationError(f"{setting}: {error}") from None
        except LoginRefused:
            raise ConfigurationError(
                f"{setting}: the database refuses this user or its password; correct the URL"
            ) from None
        except (ConnectionLost, TimeoutError):
            logger.warning("the database %r does not answer; it is tried again", self._name)

    async def ping(self) -> None:
        async with self._reading() as connection:
            await connection.execute(text("select 1"))

    async def check(self, schema: str, sql: str, *, writable: bool) -> Checked:
        from mcp_server.storage.sql.statements.check import check

        known = await self._catalog()
        return check(sql, schema, writable=writable, reserved=known.reserved, outside=True)

    async def describe(self, schema: str, wanted: Wanted) -> tuple[list[dict[str, Any]], bool]:
        everywhere = Wanted(wanted.pattern, wanted.detail, wanted.exact, every=True)
        async with self._reading() as connection:
            return await catalog.describe(connection, schema, everywhere)

    async def run(
        self,
        schema: str,
        statement: Checked,
        params: Sequence[Any],
        page: Page,
        effect: EffectKey | None = None,
    ) -> SqlResult:
        del effect  # this database holds no marks of ours
        execution = Execution(schema, statement, params, page, self._types)

        async def once(session: Session) -> SqlResult:
            result = await execution.answer(session)
            await session.command("commit")
            return result

        async with bounded(self._timeout, schema, statement, outside=True):
            return await self._run(statement, once)

    async def preview(
        self,
        schema: str,
        statement: Checked,
        params: Sequence[Any],
        page: Page,
        *,
        sample: bool,
    ) -> SqlPreview:
        execution = Execution(schema, statement, params, page, self._types)

        async def once(session: Session) -> SqlPreview:
            shown = await execution.preview(session, sample=sample)
            await session.command("rollback")
            return shown

        async with bounded(self._timeout, schema, statement, outside=True):
            return await self._run(statement, once)

    async def _run(self, statement: Checked, once: Callable[[Session], Awaitable[T]]) -> T:
        """Run `once` in a transaction, which it ends itself: READ ONLY unless it writes and may."""
        writes = self._writable and statement.writable and statement.effects
        begin = "begin" if writes else "begin read only"
        for last in (False, True):
            begun = False
            try:
                async with self._connections.borrow(Role(self._schema, writes)) as session:
                    await session.command(begin)
                    begun = True
                    return await once(session)
            except (RefusedRole, LoginRefused) as error:
                logger.warning("the database %r: %s", self._name, error)
                raise self._unavailable(
                    "its role is refused; its operator has the reason"
                ) from None
            except ConnectionLost:
                if begun and statement.effects:
                    raise Unavailable(BROKEN) from None
                if begun or last:
                    raise self._unavailable("it does not answer; try again") from None
        raise AssertionError("unreachable")

    async def _connect(self, role: Role) -> Session:
        settings = FIXED_SETTINGS | {
            "search_path": self._schema,
            "default_transaction_read_only": "off" if role.writable else "on",
            "statement_timeout": str(int(self._timeout * 1000) + 1000),
        }
        session = await Session.open(self._url, None, None, settings, limit=BATCH_BYTES)
        try:
            await self._admit(session)
        except BaseException:
            await session.close()
            raise
        return session

    async def _admit(self, session: Session) -> None:
        """Look at what the role may do, each time: it may have been given more since the start."""
        try:
            ours = await session.scalar(OURS, [])
            powers = await session.scalar(POWERS, [])
        except PostgresError as error:
            raise ConnectionLost(error.sqlstate) from None
        if ours == "true":
            raise RefusedRole("this is a database of Isthmus itself; name another one")
        if powers and not self._writable:
            raise RefusedRole(
                f"its role has {powers}, and a read-only database needs a role without such "
                "powers; name one that may only SELECT"
            )
        if powers:
            logger.warning("the role of the database %r has %s", self._name, powers)

    async def _catalog(self) -> Catalog:
        if self._known is None:
            async with self._reading() as connection:
                self._known = await read_catalog(connection, superuser=False)
        return self._known

    async def _types(self, oids: set[int]) -> dict[int, PgType]:
        known = (await self._catalog()).types
        unknown = [oid for oid in oids if oid not in known]
        if not unknown:
            return known
        async with self._reading() as connection:
            return known | await catalog.types(connection, self._schema, unknown)

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[AsyncConnection]:
        """Yield a read-only transaction for our own queries."""
        try:
            async with asyncio.timeout(CATALOG_SECONDS), self._reader.begin() as connection:
                await connection.execute(text("set transaction read only"))
                yield connection
        except (SQLAlchemyError, *DISCONNECTED) as error:
            logger.warning("the database %r fails: %s", self._name, type(error).__name__)
            raise self._unavailable("it does not answer; try again") from None

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable(f"database {self._name!r}: {why}", param="database")
