"""What a failed statement tells: the server's log is no place for what callers send."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.owner import Owner


async def test_an_error_of_the_control_database_holds_no_values(control: AsyncEngine) -> None:
    with pytest.raises(DBAPIError) as failure:
        async with control.connect() as tx:
            await tx.execute(text("select cast(:a as text), 1 / 0"), {"a": "my secret"})
    assert "my secret" not in str(failure.value)


async def test_an_error_of_the_data_databases_owner_holds_no_values(cluster: Cluster) -> None:
    owner = Owner(cluster.data_url, bytes(32))
    try:
        with pytest.raises(DBAPIError) as failure:
            async with owner._engine.connect() as tx:
                await tx.execute(text("select cast(:a as text), 1 / 0"), {"a": "my secret"})
        assert "my secret" not in str(failure.value)
    finally:
        await owner.aclose()
