"""The control database for commands that need nothing else, with the server up or down."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.settings import Settings
from mcp_server.storage.sql.control import open_control
from mcp_server.storage.sql.embedded import open_cluster


@asynccontextmanager
async def control_database(settings: Settings) -> AsyncGenerator[AsyncEngine]:
    """Yield the migrated control database; the embedded one is joined, or started for as long as it takes."""
    async with AsyncExitStack() as stack:
        url = settings.database_url
        if url is None:
            url = (await stack.enter_async_context(open_cluster(settings.data_dir))).control_url
        yield await stack.enter_async_context(open_control(url, pool_size=1))
