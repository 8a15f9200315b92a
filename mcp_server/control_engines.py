"""The engines of every process: the control database, the cache, the models and the embedder."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.health import Check
from mcp_server.ingest.embed import Embedder, open_embedder
from mcp_server.llm.opening import open_router
from mcp_server.llm.router import Router
from mcp_server.settings import Settings
from mcp_server.storage.cache import CacheEngine
from mcp_server.storage.cache.memory import MemoryCache
from mcp_server.storage.cache.redis import open_redis
from mcp_server.storage.sql.control import answers, open_control, open_pool
from mcp_server.storage.sql.wake import Wake, open_wake
from mcp_server.tracing.otlp import open_spans
from mcp_server.tracing.spans import Spans


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlEngines:
    """What is open; `checks` asks each whether it is well.

    `runs` and `heartbeat` reach the control database as well, on connections of their own: however
    busy tools keep `control`, a run can be cancelled, and a worker keeps its lease.
    """

    control: AsyncEngine
    runs: AsyncEngine
    heartbeat: AsyncEngine
    wake: Wake
    cache: CacheEngine
    embedder: Embedder
    router: Router
    spans: Spans | None
    checks: dict[str, Check]


@asynccontextmanager
async def open_control_engines(settings: Settings, url: str) -> AsyncGenerator[ControlEngines]:
    """Open them over the control database at `url`, and close them in reverse order.

    Raises:
        ConfigurationError: an engine is not available or does not open.
    """
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(open_control(url))
        # No overflow: a connection beyond the pool is made for one transaction, and costs ten of them.
        runs = await stack.enter_async_context(open_pool(url, pool_size=6, overflow=0))
        heartbeat = await stack.enter_async_context(open_pool(url, pool_size=1, overflow=0))
        wake = await stack.enter_async_context(open_wake(url))
        cache = await _cache(stack, settings)
        spans = await stack.enter_async_context(open_spans(settings.tracing))
        router = await stack.enter_async_context(open_router(settings, spans))
        embedder = await stack.enter_async_context(open_embedder(settings))
        yield ControlEngines(
            control=control,
            runs=runs,
            heartbeat=heartbeat,
            wake=wake,
            cache=cache,
            embedder=embedder,
            router=router,
            spans=spans,
            checks=_checks(control, cache, router),
        )


async def _cache(stack: AsyncExitStack, settings: Settings) -> CacheEngine:
    if settings.redis_url is None:
        return MemoryCache()
    return await stack.enter_async_context(open_redis(settings.redis_url))


def _checks(control: AsyncEngine, cache: CacheEngine, router: Router) -> dict[str, Check]:
    async def control_answers() -> str:
        await answers(control)
        return "PostgreSQL answers"

    async def models_answer() -> str:
        models = await router.models()
        well = [model.id for model in models if model.healthy]
        if not well:
            raise ConnectionError("no model answers")
        return f"{len(well)} of {len(models)} models answer"

    return {"control": control_answers, "cache": cache.answers, "llm": models_answer}
