"""A world of its own for each test: a tenant with one agent, and a process that runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.runs import RunService
from tests.contract.runs.world import World


@pytest.fixture
async def world(operations: Operations, control: AsyncEngine, principal: Principal) -> World:
    world = World(operations, control)
    await world.save(principal)
    return world


@pytest.fixture
async def runs(world: World) -> AsyncIterator[RunService]:
    async with world.open() as runs:
        yield runs
