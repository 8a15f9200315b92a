"""Objects on the real database, in a blob store of each test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.operation import Operations
from mcp_server.services.objects import ObjectService
from mcp_server.storage.objects.file import FileStore, open_file_store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the blobs are."""
    return tmp_path / "objects"


@pytest.fixture
async def blobs(folder: Path) -> AsyncIterator[FileStore]:
    async with open_file_store(folder) as store:
        yield store


@pytest.fixture
def objects(operations: Operations, control: AsyncEngine, blobs: FileStore) -> ObjectService:
    return ObjectService(operations, control, blobs)
