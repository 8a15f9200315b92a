"""Everything that a unit of work can write, for the tests of units."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound
from mcp_server.operation import Operations
from mcp_server.services.kv import KvService
from mcp_server.services.objects import ObjectService
from mcp_server.services.sql import SqlService
from mcp_server.services.units import Recovery, UnitService, UnitStores
from mcp_server.services.vectors import VectorService
from mcp_server.storage.objects import BlobStore
from mcp_server.storage.objects.file import open_file_store
from mcp_server.storage.sql.postgresql import PostgresqlEngine
from mcp_server.storage.vectors.postgresql import PostgresVectors
from tests.contract.vectors.hashed_words import HashedWords


@dataclass
class World:
    """The stores, and units of work over them."""

    control: AsyncEngine
    engine: PostgresqlEngine
    blobs: BlobStore
    stores: UnitStores
    sql: SqlService
    units: UnitService
    recovery: Recovery

    async def rows(self, who: Principal) -> list[list[Any]]:
        """The rows of the table `t`."""
        return (await self.sql.query(who, "select * from t order by 1"))["rows"]

    async def value(self, who: Principal, key: str) -> Any:
        try:
            return (await self.stores.kv.get(who, "default", key))["value"]
        except NotFound:
            return None

    async def object(self, who: Principal, key: str) -> str | None:
        try:
            return (await self.stores.objects.get(who, "default", key)).get("text")
        except NotFound:
            return None

    async def document(self, who: Principal, document: str) -> str | None:
        try:
            return (await self.stores.vectors.get(who, "s", document))["text"]
        except NotFound:
            return None

    async def journal(self, who: Principal) -> list[tuple[str, str]]:
        """Verb and URI of every entry."""
        query = text("select verb, uri from journal where tenant = :t order by seq")
        async with self.control.connect() as connection:
            rows = await connection.execute(query, {"t": who.tenant})
            return [(row.verb, row.uri) for row in rows]

    async def pending(self) -> int:
        """How many units are not settled, and how much is held for them."""
        query = text(
            "select (select count(*) from units) + (select count(*) from unit_holds)"
            " + (select count(*) from unit_blobs)"
        )
        async with self.control.connect() as connection:
            return await connection.scalar(query) or 0


@asynccontextmanager
async def open_world(
    control: AsyncEngine, operations: Operations, engine: PostgresqlEngine, folder: Path
) -> AsyncGenerator[World]:
    async with open_file_store(folder) as blobs:
        stores = UnitStores(
            KvService(operations, control, undo_days=7),
            ObjectService(operations, control, blobs, 7),
            VectorService(
                operations, control, PostgresVectors(control), HashedWords(), undo_days=7
            ),
        )
        recovery = Recovery(operations, control, stores, engine.units)
        units = UnitService(operations, control, stores, engine, engine.units, recovery)
        sql = SqlService(operations, control, engine)
        yield World(control, engine, blobs, stores, sql, units, recovery)
