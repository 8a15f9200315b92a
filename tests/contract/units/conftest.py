"""A world for each test of units of work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.operation import Operations
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.postgresql import PostgresqlEngine, open_postgresql
from tests.conftest import SECRET
from tests.contract.units.world import World, open_world


@pytest.fixture(scope="session")
async def engine(cluster: Cluster) -> AsyncIterator[PostgresqlEngine]:
    async with open_postgresql(cluster.data_url, SECRET) as engine:
        yield engine


@pytest.fixture
async def world(
    control: AsyncEngine, operations: Operations, engine: PostgresqlEngine, tmp_path: Path
) -> AsyncIterator[World]:
    async with open_world(control, operations, engine, tmp_path / "blobs") as world:
        yield world
