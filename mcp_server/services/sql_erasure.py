"""A tenant's part of the data database, for its erasure."""

from __future__ import annotations

from mcp_server.placement import Placements
from mcp_server.storage.sql import SqlEngine


class SqlErasure:
    """See `erasure.Derived`."""

    name = "sql"

    def __init__(self, engine: SqlEngine) -> None:
        self._engine = engine
        self._placement = Placements(engine.url)

    async def erase(self, tenant: str) -> None:
        await self._engine.erase(self._placement(tenant).schema)

    async def left(self, tenant: str) -> dict[str, int]:
        return await self._engine.left(self._placement(tenant).schema)
