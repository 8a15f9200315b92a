"""Tenants' SQL on the real database, through the service: values, pages, errors, journal, schema."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.postgresql import open_postgresql


@pytest.fixture(scope="session")
async def sql(
    cluster: Cluster, operations: Operations, control: AsyncEngine
) -> AsyncIterator[SqlService]:
    async with open_postgresql(cluster.data_url, bytes(range(32))) as engine:
        yield SqlService(operations, control, engine)


async def test_a_table_is_made_filled_and_read(sql: SqlService, principal: Principal) -> None:
    await sql.execute(principal, "create table t(a int, b text)")
    written = await sql.execute(principal, "insert into t values ($1, $2)", [1, "ü"])
    assert written["row_count"] == 1
    assert await sql.query(principal, "select * from t") == {
        "columns": [{"name": "a", "type": "integer"}, {"name": "b", "type": "text"}],
        "rows": [[1, "ü"]],
        "row_count": 1,
        "truncated": False,
        "next_cursor": None,
    }
