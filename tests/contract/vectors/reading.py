"""What the tests of vector stores share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.services.vectors import Mode

MODES: list[Mode] = ["hybrid", "dense", "text"]
LONG = "".join(f"Paragraph {n} speaks of topic{n} at some length. " * 8 + "\n\n" for n in range(12))


def found(answer: Any) -> list[str]:
    return [result["document"] for result in answer["results"]]


async def count(control: AsyncEngine, table: Table, principal: Principal) -> int:
    async with control.connect() as connection:
        query = select(func.count()).where(table.c.tenant == principal.tenant)
        return await connection.scalar(query) or 0


async def changes(control: AsyncEngine, principal: Principal) -> list[tuple[str, str]]:
    rows, _ = await journal.read(control, principal.tenant, None, 1000)
    return [(row["verb"], row["uri"]) for row in rows]
