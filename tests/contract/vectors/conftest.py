"""Vector services on the real database, with an embedder that needs no model."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.operation import Operations
from mcp_server.services.vectors import VectorService
from mcp_server.storage.vectors import VectorEngine, open_vectors
from tests.contract.vectors.hashed_words import HashedWords


@pytest.fixture
async def engine(control: AsyncEngine) -> AsyncIterator[VectorEngine]:
    async with open_vectors(None, control) as engine:
        yield engine


@pytest.fixture
def embedder() -> HashedWords:
    return HashedWords()


@pytest.fixture
def vectors(
    operations: Operations, control: AsyncEngine, engine: VectorEngine, embedder: HashedWords
) -> VectorService:
    return VectorService(operations, control, engine, embedder)
