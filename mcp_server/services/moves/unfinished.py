"""An import that was begun and has not ended: nobody serves what is half there."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.errors import ConfigurationError


async def refuse_unfinished(control: AsyncEngine) -> None:
    """Refuse to serve what is half imported.

    Raises:
        ConfigurationError: an import was begun and has not ended.
    """
    async with control.connect() as tx:
        if await tx.scalar(text("select true from import_parts limit 1")):
            raise ConfigurationError(
                "an import into this deployment has not ended; run the same `isthmus import DIR` again"
            )
