"""A world of its own for each test: a tenant with one agent, and a process that runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.runs import RunService
from tests.contract.runs.rows import Rows
from tests.contract.runs.world import World


@pytest.fixture
async def world(
    operations: Operations, control: AsyncEngine, principal: Principal
) -> AsyncIterator[World]:
    world = World(operations, control)
    await _forget_live_runs(control)
    await world.save(principal)
    yield world
    await _forget_live_runs(control)


@pytest.fixture
async def runs(world: World) -> AsyncIterator[RunService]:
    async with world.open() as runs:
        yield runs


@pytest.fixture
async def rows(control: AsyncEngine, principal: Principal) -> AsyncIterator[Rows]:
    """The stores of the engine without a worker; no lease is left to expire in another test."""
    rows = Rows(control, principal.tenant)
    yield rows
    for epoch in rows.taken:
        await rows.leases.give_up(epoch)


async def _forget_live_runs(control: AsyncEngine) -> None:
    """What one test left, or its closing worker handed back, must not be the work of another's."""
    async with control.begin() as tx:
        await tx.execute(text("delete from runs where ended_at is null"))
