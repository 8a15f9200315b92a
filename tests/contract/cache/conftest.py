"""Every cache engine, and every kind of namespace that stands on one."""

from __future__ import annotations

import pkgutil
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.operation import Operations
from mcp_server.services.kv import KvService
from mcp_server.storage import cache
from mcp_server.storage.cache import CacheEngine
from mcp_server.storage.cache.memory import MemoryCache
from mcp_server.storage.cache.redis import open_redis
from tests.servers.valkey import Valkey

ENGINES = sorted(
    module.name for module in pkgutil.iter_modules(cache.__path__) if module.name != "redis_scripts"
)


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[CacheEngine]:
    async for opened in opened_engine(request, request.param):
        yield opened


async def opened_engine(request: pytest.FixtureRequest, name: str) -> AsyncIterator[CacheEngine]:
    if name == "memory":
        yield MemoryCache()
    elif name == "redis":
        async with open_redis(request.getfixturevalue("valkey").url) as opened:
            yield opened
    else:
        raise NotImplementedError(f"the tests know no place for the engine {name}")


@dataclass
class Kind:
    """A service and a namespace of its own on one kind of store."""

    kv: KvService
    namespace: str
    durable: bool


@pytest.fixture(params=["durable", *ENGINES])
async def kind(
    request: pytest.FixtureRequest, operations: Operations, control: AsyncEngine
) -> AsyncIterator[Kind]:
    if request.param == "durable":
        name = f"n{uuid.uuid4().hex}"
        yield Kind(KvService(operations, control, undo_days=7), name, durable=True)
        return
    async for opened in opened_engine(request, request.param):
        kv = KvService(operations, control, cache=opened, undo_days=7)
        yield Kind(kv, f"cache/{uuid.uuid4().hex}", durable=False)


@pytest.fixture
def tenant(principal: Principal) -> str:
    return principal.tenant
