"""Drops earlier versions of documents that cannot be brought back any more, while a process serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.services.vectors.versions import purge

logger = logging.getLogger(__name__)

PURGE_SECONDS = 3600.0
DAY = 86_400.0


@asynccontextmanager
async def keeping_versions(control: AsyncEngine, undo_days: float) -> AsyncGenerator[None]:
    """Drop what is older than `undo_days` now, and every hour while the context is open."""

    async def keep() -> None:
        while True:
            try:
                await purge(control, undo_days * DAY)
            except (SQLAlchemyError, OSError) as error:
                logger.warning("documents: old versions are not dropped yet (%s)", error)
            await asyncio.sleep(PURGE_SECONDS)

    keeper = asyncio.create_task(keep(), name="document-versions")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
