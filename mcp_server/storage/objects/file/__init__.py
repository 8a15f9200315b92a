"""The embedded blob store: one directory, shared by all local processes that open it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mcp_server.storage.objects import Opening
from mcp_server.storage.objects.file.store import FileStore, open_file_store

__all__ = ["FileStore", "open_engine", "open_file_store"]


@asynccontextmanager
async def open_engine(opening: Opening) -> AsyncGenerator[FileStore]:
    """Open the folder of the namespace; it has no links of its own, and no limit but the disk's."""
    async with open_file_store(opening.folder / opening.namespace) as store:
        yield store
