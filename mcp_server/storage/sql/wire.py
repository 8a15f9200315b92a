"""One tenant connection over asyncpg, in PostgreSQL's text form both ways, with a bound on each answer.

asyncpg is untyped, and text for every type has no public switch in it: both stay in this module.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import asyncpg
from asyncpg import protocol

CONNECT_TIMEOUT = 10
CLOSE_TIMEOUT = 5

_ALL = 2**31 - 1

# The type "char", which asyncpg's map of names to OIDs leaves out in favour of char(n).
_CHAR_OID = 18

_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


class PostgresError(Exception):
    """What the server says about a failed statement. `position` counts characters from 1."""

    def __init__(self, error: asyncpg.PostgresError) -> None:
        fields: dict[str, Any] = error.as_dict()
        self.sqlstate = str(fields.get("sqlstate") or "XX000")
        self.message = str(fields.get("message") or error)
        self.detail: str | None = fields.get("detail")
        self.hint: str | None = fields.get("hint")
        self.position: str | None = fields.get("position")
        super().__init__(self.message)


class ResponseTooLarge(Exception):
    """The server sent more than one fetch may hold; the connection is gone."""


class ConnectionLost(Exception):
    """The connection could not be made, or broke."""


class LoginRefused(Exception):
    """The role does not exist, or has another password than the one derived from the secret key."""


class Column(NamedTuple):
    name: str
    oid: int


@dataclass(frozen=True, slots=True)
class _Prepared:
    # asyncpg asks whether its introspection took the unnamed statement's place; ours sends nothing.
    name: str = "none"


class _TextConnection(asyncpg.Connection):
    """Takes each type that it does not know as text, instead of asking the catalog about it."""

    async def _introspect_types(self, typeoids: Any, timeout: Any) -> Any:
        del timeout
        for oid in typeoids:
            self.take_as_text(oid)
        return [], _Prepared()

    def take_as_text(self, oid: int) -> None:
        protocol_: Any = self._protocol
        settings = protocol_.get_settings()
        settings.add_python_codec(oid, str(oid), "pg_catalog", [], "scalar", str, str, "text")


class _Meter(asyncio.Protocol):
    """Stands before asyncpg's protocol and breaks the connection when an answer is too large.

    A single value can have a gigabyte; asyncpg has no limit of its own.
    """

    def __init__(self, inner: Any, transport: asyncio.Transport) -> None:
        self._inner = inner
        self._transport = transport
        self.left = 1 << 62
        self.exceeded = False

    def data_received(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left < 0:
            self.exceeded = True
            self._transport.abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


async def connect_owner(url: str) -> Any:
    """Connect as the owner that the URL names; libpq's parameters (sslmode, host, …) are understood."""
    settings = {"application_name": "isthmus owner"}
    return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, server_settings=settings)


class Session:
    """A connection of one tenant role. Not for concurrent use."""

    def __init__(self, connection: Any, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        self._statement: Any = None
        self._cursor: Any = None
        self._fetched = 0
        transport = connection._transport  # noqa: SLF001  asyncpg has no public way to it
        self._meter = _Meter(connection._protocol, transport)  # noqa: SLF001  the same
        transport.set_protocol(self._meter)
        for oid in (*protocol.BUILTIN_TYPE_NAME_MAP.values(), _CHAR_OID):
            connection.take_as_text(oid)

    @classmethod
    async def open(
        cls,
        url: str,
        role: str | None,
        password: str | None,
        settings: dict[str, str],
        *,
        limit: int,
    ) -> Session:
        """Connect as `role`, None for the URL's. `limit` is in bytes for one answer.

        Raises:
            LoginRefused, ConnectionLost.
        """
        try:
            connection = await asyncpg.connect(
                url,
                user=role,
                password=password,
                timeout=CONNECT_TIMEOUT,
                statement_cache_size=0,
                connection_class=_TextConnection,
                server_settings=settings,
            )
        except (
            asyncpg.InvalidPasswordError,
            asyncpg.InvalidAuthorizationSpecificationError,
        ) as error:
            raise LoginRefused(role or "the URL's role") from error
        except (*_LOST, asyncpg.PostgresError, TimeoutError) as error:
            raise ConnectionLost(type(error).__name__) from error
        return cls(connection, limit)

    @property
    def closed(self) -> bool:
        return self._connection.is_closed()

    @property
    def backend_pid(self) -> int:
        """The process on the other side, by the number that its own machine knows it by."""
        return int(self._connection.get_server_pid())

    @property
    def server_version(self) -> int:
        """The major version of PostgreSQL on the other side."""
        return int(self._connection.get_server_version().major)

    @contextmanager
    def _failures(self) -> Generator[None]:
        self._meter.left = self._limit
        try:
            yield
        except _LOST as error:
            if self._meter.exceeded:
                raise ResponseTooLarge from error
            raise ConnectionLost(type(error).__name__) from error
        except asyncpg.PostgresError as error:
            raise PostgresError(error) from error

    async def command(self, sql: str) -> None:
        """Run one of the server's own statements, without parameters or rows."""
        with self._failures():
            await self._connection.execute(sql)

    async def scalar(self, sql: str, arguments: Sequence[str | None]) -> str | None:
        """Run one of the server's own queries and return its one value as text."""
        with self._failures():
            value: Any = await self._connection.fetchval(sql, *arguments)
        return None if value is None else str(value)

    async def prepare(self, sql: str) -> tuple[list[int], list[Column]]:
        """Prepare the caller's statement; return its parameters' type OIDs and its columns."""
        with self._failures():
            self._statement = await self._connection.prepare(sql)
        parameters = [type_.oid for type_ in self._statement.get_parameters()]
        columns = [Column(item.name, item.type.oid) for item in self._statement.get_attributes()]
        return parameters, columns

    async def execute(self, arguments: Sequence[str | None]) -> int:
        """Run the prepared statement that returns no rows; return how many it affected."""
        with self._failures():
            await self._statement.fetch(*arguments)
        status: str = self._statement.get_statusmsg() or ""
        count = status.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0

    async def bind(self, arguments: Sequence[str | None], skip: int) -> None:
        """Open the prepared statement's rows, after the first `skip`."""
        with self._failures():
            self._cursor = await self._statement.cursor(*arguments)
            self._fetched = await self._cursor.forward(skip) if skip else 0

    async def fetch(self, count: int) -> list[tuple[str | None, ...]]:
        """Return up to `count` further rows as texts; fewer means that there are no more."""
        with self._failures():
            rows = [tuple(record) for record in await self._cursor.fetch(count)]
        self._fetched += len(rows)
        return rows

    async def count(self) -> int:
        """Return how many rows the statement has, by skipping those that were not fetched."""
        with self._failures():
            return self._fetched + int(await self._cursor.forward(_ALL))

    async def reset(self) -> None:
        """Make the connection as new for the next call of the same role."""
        self._cursor = self._statement = None
        with self._failures():
            await self._connection.execute("discard all")

    async def close(self) -> None:
        """Close; a statement that still runs is cancelled on the server first."""
        self._cursor = self._statement = None
        try:
            with suppress(TimeoutError, asyncpg.PostgresError, *_LOST):
                await self._connection.close(timeout=CLOSE_TIMEOUT)
        finally:
            self._connection.terminate()
