"""The tenants' SQL engine on each kind of owner: a superuser (embedded), and a role that is none."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mcp_server.operation import Operations
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.postgresql import PostgresqlEngine, open_postgresql
from tests.conftest import SECRET

# A server of one's own, whose owner may create roles: TEST_DATA_URL=postgresql://…
OUTSIDE = os.environ.get("TEST_DATA_URL")


@pytest.fixture(scope="session", params=["superuser", "plain", *(["outside"] if OUTSIDE else [])])
async def data_url(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    if request.param == "superuser":
        return cluster.data_url
    if request.param == "outside":
        assert OUTSIDE is not None
        return OUTSIDE
    owner = open_admin(cluster.data_url)
    async with owner.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        # Made once for the cluster: the fixture comes and goes with the files that are run.
        if not await autocommit.scalar(text("select 1 from pg_roles where rolname = 'plain'")):
            await autocommit.execute(text("create role plain login createrole password 'plain'"))
            await autocommit.execute(text("create database plain_data owner plain"))
    await owner.dispose()
    return cluster.url("plain_data", "plain", "plain")


@pytest.fixture(scope="session")
async def engine(data_url: str) -> AsyncIterator[PostgresqlEngine]:
    async with open_postgresql(data_url, SECRET, connections=8) as engine:
        yield engine


@pytest.fixture(scope="session")
async def sql(engine: PostgresqlEngine, operations: Operations, control: AsyncEngine) -> SqlService:
    return SqlService(operations, control, engine)


@pytest.fixture(scope="session")
async def admin(data_url: str) -> AsyncIterator[AsyncEngine]:
    """The data database as its owner sees it."""
    engine = open_admin(data_url)
    yield engine
    await engine.dispose()


def open_admin(url: str) -> AsyncEngine:
    return create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
