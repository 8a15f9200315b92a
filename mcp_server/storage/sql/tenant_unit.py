"""Units of work in the data database: the tenant's transaction, and the marks as their owner sees them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from mcp_server.errors import Conflict, Unavailable
from mcp_server.storage.sql import Checked, Page, SqlResult
from mcp_server.storage.sql.connections import Connections, Role
from mcp_server.storage.sql.execution import Execution, bounded
from mcp_server.storage.sql.failures import translate
from mcp_server.storage.sql.owner import Owner
from mcp_server.storage.sql.unit import UnitUnsure
from mcp_server.storage.sql.values import PgType
from mcp_server.storage.sql.wire import ConnectionLost, LoginRefused, PostgresError, Session

_LOST = "the connection to the database broke and nothing of this was done; try again"

T = TypeVar("T")


class TenantUnits:
    """See `UnitEngine`."""

    def __init__(self, owner: Owner, connections: Connections, timeout: float) -> None:
        self._owner = owner
        self._connections = connections
        self._timeout = timeout

    @asynccontextmanager
    async def unit(self, schema: str, unit: str) -> AsyncGenerator[TenantUnit]:
        async with AsyncExitStack() as stack:
            session = await self._begin(stack, schema)
            opened = TenantUnit(session, self._owner, schema, unit, self._timeout)
            yield opened
            if not opened.ended:
                await opened.guarded(lambda: session.command("rollback"))

    async def settle(self, unit: str) -> bool:
        return await self._owner.settle_unit(unit)

    async def _begin(self, stack: AsyncExitStack, schema: str) -> Session:
        for last in (False, True):
            async with AsyncExitStack() as attempt:
                try:
                    borrowed = self._connections.borrow(Role(schema, writable=True))
                    session = await attempt.enter_async_context(borrowed)
                    await session.command("begin isolation level read committed")
                except LoginRefused as error:
                    if last:
                        raise Unavailable("the data database refuses this tenant's role") from error
                    await self._owner.ensure(schema, renew=True)
                except ConnectionLost as error:
                    if last:
                        raise Unavailable("the data database does not answer; try again") from error
                else:
                    stack.push_async_exit(attempt.pop_all())
                    return session
        raise AssertionError("unreachable")


class TenantUnit:
    """See `UnitTransaction`."""

    def __init__(
        self, session: Session, owner: Owner, schema: str, unit: str, timeout: float
    ) -> None:
        self._session = session
        self._owner = owner
        self._schema = schema
        self._unit = unit
        self._timeout = timeout
        self.ended = False

    async def run(self, statement: Checked, params: Sequence[Any], page: Page) -> SqlResult:
        async def types(oids: set[int]) -> dict[int, PgType]:
            return await self._owner.types(self._schema, oids)

        execution = Execution(self._schema, statement, params, page, types)
        async with bounded(self._timeout, self._schema, statement):
            return await self.guarded(lambda: execution.answer(self._session))

    async def ready(self) -> None:
        await self._checked(lambda: self._session.command("set constraints all immediate"))

    async def commit(self) -> None:
        proof = self._owner.roles.proof(self._schema)
        query = "select isthmus.mark_unit($1::text, $2::text)::text"
        marked = await self._checked(lambda: self._session.scalar(query, (proof, self._unit)))
        if marked != "true":
            raise Conflict("this unit of work took too long and was given up; try again")
        self.ended = True
        try:
            await self._session.command("commit")
        except ConnectionLost as error:
            raise UnitUnsure(self._unit) from error
        except PostgresError as error:
            raise translate(error, self._schema, positions=False) from error

    async def _checked(self, do: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self.guarded(do)
        except PostgresError as error:
            raise translate(error, self._schema, positions=False) from error

    async def guarded(self, do: Callable[[], Awaitable[T]]) -> T:
        """Do something whose lost connection means that nothing of the unit was done."""
        try:
            return await do()
        except ConnectionLost as error:
            raise Unavailable(_LOST) from error
