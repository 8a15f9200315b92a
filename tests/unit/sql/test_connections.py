"""How tenants share the connections, with sessions that only count."""

from __future__ import annotations

import asyncio

import pytest

from mcp_server.storage.sql.connections import Connections, Role
from mcp_server.storage.sql.wire import ConnectionLost, PostgresError


class CountingSession:
    """A session that knows whether it is in use, was reset, or closed."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.closed = False
        self.resets = 0
        self.broken = False

    async def reset(self) -> None:
        if self.broken:
            raise ConnectionLost
        self.resets += 1

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed = True


class World:
    def __init__(self, limit: int) -> None:
        self.made: list[CountingSession] = []
        self.refuse = False
        self.connections = Connections(self._connect, limit)  # pyright: ignore[reportArgumentType]

    async def _connect(self, role: Role) -> CountingSession:
        await asyncio.sleep(0)
        if self.refuse:
            raise ConnectionLost
        self.made.append(CountingSession(role))
        assert len([session for session in self.made if not session.closed]) <= 4
        return self.made[-1]

    async def use(self, role: Role, hold: asyncio.Event | None = None) -> CountingSession:
        async with self.connections.borrow(role) as session:
            assert isinstance(session, CountingSession)
            assert session.role == role
            assert not session.closed
            if hold is not None:
                await hold.wait()
            return session


A, A_READS, B, C = Role("a", True), Role("a", False), Role("b", True), Role("c", True)


async def test_a_session_is_reused_within_its_role_only() -> None:
    world = World(4)
    first = await world.use(A)
    assert await world.use(A) is first
    assert await world.use(A_READS) is not first
    assert await world.use(B) is not first
    assert first.resets == 2


async def test_the_longest_idle_one_makes_room() -> None:
    world = World(2)
    first, second = await world.use(A), await world.use(B)
    third = await world.use(C)
    assert (first.closed, second.closed) == (True, False)
    assert await world.use(B) is second
    assert await world.use(C) is third


async def test_many_tenants_never_exceed_the_limit() -> None:
    world = World(4)
    roles = [Role(str(number % 9), number % 2 == 0) for number in range(200)]
    await asyncio.gather(*(world.use(role) for role in roles))
    await world.connections.aclose()
    assert all(session.closed for session in world.made)


@pytest.mark.parametrize("broken", [False, True])
async def test_a_session_whose_block_failed_is_closed(broken: bool) -> None:
    world = World(1)
    with pytest.raises(ZeroDivisionError):
        async with world.connections.borrow(A):
            raise ZeroDivisionError
    assert not (await world.use(A)).closed
    assert world.made[0].closed


async def test_a_session_that_cannot_be_reset_does_not_fail_the_call() -> None:
    world = World(1)
    async with world.connections.borrow(A) as session:
        session.broken = True  # pyright: ignore[reportAttributeAccessIssue]
    await world.use(A)
    assert world.made[0].closed


async def test_a_failed_connect_gives_its_place_back() -> None:
    world = World(1)
    world.refuse = True
    for _ in range(3):
        with pytest.raises(ConnectionLost):
            await world.use(A)
    world.refuse = False
    await world.use(A)


async def test_a_waiter_that_gives_up_leaves_the_queue_whole() -> None:
    world, hold = World(1), asyncio.Event()
    holder = asyncio.create_task(world.use(A, hold))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await world.use(B)
    waiter = asyncio.create_task(world.use(C))
    hold.set()
    await holder
    assert (await waiter).role == C


async def test_one_tenant_takes_half_at_most() -> None:
    world, hold = World(4), asyncio.Event()
    holders = [asyncio.create_task(world.use(A, hold)) for _ in range(6)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(world.made) == 2
    async with asyncio.timeout(1):
        await world.use(B)
    hold.set()
    await asyncio.gather(*holders)


async def test_cancelling_a_user_closes_its_session() -> None:
    world, hold = World(1), asyncio.Event()
    user = asyncio.create_task(world.use(A, hold))
    while not world.made:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    user.cancel()
    with pytest.raises(asyncio.CancelledError):
        await user
    await world.use(B)
    assert world.made[0].closed
    assert PostgresError.__doc__
