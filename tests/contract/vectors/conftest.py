"""Vector services on the real database and on every engine there is, with an embedder that needs no model."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import mcp_server.storage.vectors
from mcp_server.operation import Operations
from mcp_server.services.vectors import VectorService
from mcp_server.storage.vectors import DEFAULT_ENGINE, VectorEngine, open_vectors
from tests.contract.vectors.hashed_words import HashedWords
from tests.servers.milvus import MilvusLite

PACKAGE = mcp_server.storage.vectors
# An engine is a module with `open_engine`; its name is its URL's scheme.
ENGINES = [
    module.name
    for module in pkgutil.iter_modules(PACKAGE.__path__)
    if hasattr(importlib.import_module(f"{PACKAGE.__name__}.{module.name}"), "open_engine")
]


@pytest.fixture(scope="session")
def milvus_url() -> Iterator[str]:
    with MilvusLite() as server:
        yield server.url


@pytest.fixture(params=ENGINES)
async def engine(
    request: pytest.FixtureRequest, control: AsyncEngine
) -> AsyncIterator[VectorEngine]:
    """Every engine in turn; one with a server of its own brings the fixture `SCHEME_url`."""
    name: str = request.param
    url = None if name == DEFAULT_ENGINE else request.getfixturevalue(f"{name}_url")
    async with open_vectors(url, control) as engine:
        yield engine


@pytest.fixture
def embedder() -> HashedWords:
    return HashedWords()


@pytest.fixture
def vectors(
    operations: Operations, control: AsyncEngine, engine: VectorEngine, embedder: HashedWords
) -> VectorService:
    return VectorService(operations, control, engine, embedder)
