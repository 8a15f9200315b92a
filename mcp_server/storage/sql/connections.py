"""The tenants' connections: few, each reused only by its own role, the longest idle one closed for another."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass

from mcp_server.storage.sql import priority
from mcp_server.storage.sql.wire import ConnectionLost, PostgresError, ResponseTooLarge, Session


@dataclass(frozen=True, slots=True)
class Role:
    """One of a tenant's two login roles: `writable` is False for the one with SELECT only."""

    schema: str
    writable: bool


class Connections:
    """At most `limit` connections over all tenants; callers beyond that queue, first come first served.

    One tenant may use `share` of them at once, half if not given, so that its slow statements leave room
    for others. The caller's deadline bounds the wait: it cancels.

    `beside_us`: the database runs on this machine, as a user whose processes this one may slow down. A
    statement that takes long then runs at a lower priority, so that it leaves CPU to others as well.
    """

    def __init__(
        self,
        connect: Callable[[Role], Awaitable[Session]],
        limit: int,
        share: int | None = None,
        *,
        beside_us: bool = False,
    ) -> None:
        self._connect = connect
        self._limit = limit
        self._slots = asyncio.Semaphore(limit)
        self._share = share or max(1, limit // 2)
        self._beside_us = beside_us and priority.is_possible()
        self._tenants: dict[str, asyncio.Semaphore] = {}
        self._users: Counter[str] = Counter()
        self._idle: OrderedDict[Session, Role] = OrderedDict()
        self._open = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @asynccontextmanager
    async def borrow(self, role: Role) -> AsyncGenerator[Session]:
        """Yield a session of `role`. One whose block raised is closed, not used again.

        Raises:
            ConnectionLost, LoginRefused: no connection could be made.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._tenant(role.schema))
            await self._slots.acquire()
            try:
                session = await self._take(role)
            except BaseException:
                self._slots.release()
                raise
            try:
                with self._lowering(session) as lowered:
                    yield session
                clean = not self._closed and not lowered.kept and await _reset(session)
            except BaseException:
                self._drop(session)
                raise
            if clean:
                self._idle[session] = role
                self._slots.release()
            else:
                self._drop(session)

    def _lowering(self, session: Session) -> AbstractContextManager[priority.Lowered]:
        if self._beside_us:
            return priority.lowering(session.backend_pid)
        return nullcontext(priority.Lowered(0))

    @asynccontextmanager
    async def _tenant(self, schema: str) -> AsyncGenerator[None]:
        self._users[schema] += 1
        share = self._tenants.setdefault(schema, asyncio.Semaphore(self._share))
        try:
            async with share:
                yield
        finally:
            self._users[schema] -= 1
            if not self._users[schema]:
                del self._users[schema], self._tenants[schema]

    async def _take(self, role: Role) -> Session:
        """Return an idle session of the role, else a new one. The caller holds a slot."""
        for session in [item for item, owner in reversed(self._idle.items()) if owner == role]:
            del self._idle[session]
            if not session.closed:
                return session
            self._open -= 1
        if self._open >= self._limit:
            # The caller's slot has no connection yet, so at least one of the open ones is idle.
            session, _ = self._idle.popitem(last=False)
            await self._close(session)
        self._open += 1
        try:
            return await self._connect(role)
        except BaseException:
            self._open -= 1
            raise

    def _drop(self, session: Session) -> None:
        """Close in the background, also when the caller is being cancelled; its slot stays taken until then."""
        task = asyncio.get_running_loop().create_task(self._close_and_release(session))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_and_release(self, session: Session) -> None:
        try:
            await self._close(session)
        finally:
            self._slots.release()

    async def _close(self, session: Session) -> None:
        try:
            await session.close()
        finally:
            self._open -= 1

    async def aclose(self) -> None:
        """Close every idle connection, and wait for those that are being closed."""
        self._closed = True
        while self._idle:
            session, _ = self._idle.popitem()
            await self._close(session)
        if self._closing:
            await asyncio.wait(self._closing)


async def _reset(session: Session) -> bool:
    """Return whether the session is as new. Its call is done: a failure here is not the caller's."""
    try:
        await session.reset()
    except (ConnectionLost, PostgresError, ResponseTooLarge):
        return False
    return True
