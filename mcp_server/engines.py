"""The engines behind the services: a URL picks each, and with none set they run embedded."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.control_engines import ControlEngines, open_control_engines
from mcp_server.errors import ConfigurationError
from mcp_server.health import Check
from mcp_server.services.buckets import refuse_shadowing
from mcp_server.services.objects import blob_namespace
from mcp_server.settings import Settings
from mcp_server.storage.buckets import Bucket, open_buckets
from mcp_server.storage.objects import BlobStore, Opening, open_blobs
from mcp_server.storage.sql import OutsideDatabase, SqlEngine
from mcp_server.storage.sql.embedded import open_cluster
from mcp_server.storage.sql.outside import open_outside
from mcp_server.storage.sql.postgresql import open_postgresql
from mcp_server.storage.sql.unit import UnitEngine
from mcp_server.storage.vectors import VectorEngine, open_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines(ControlEngines):
    """What is open with the data."""

    sql: SqlEngine
    units: UnitEngine
    databases: dict[str, OutsideDatabase]
    blobs: BlobStore
    buckets: dict[str, Bucket]
    vectors: VectorEngine


@asynccontextmanager
async def open_engines(settings: Settings, sql_secret: bytes) -> AsyncGenerator[Engines]:
    """Open every engine, and close them in reverse order.

    Raises:
        ConfigurationError: an engine is not available or does not open.
    """
    _refuse_other_tools(settings)
    async with AsyncExitStack() as stack:
        control_url, data_url = await _databases(stack, settings)
        shared = await stack.enter_async_context(open_control_engines(settings, control_url))
        control = shared.control
        sql = await stack.enter_async_context(
            open_postgresql(
                data_url,
                sql_secret,
                connections=settings.sql_connections,
                timeout_seconds=settings.sql_timeout_seconds,
                beside_us=settings.data_url is None,
            )
        )
        databases = await _outside(stack, settings, control_url, data_url)
        blobs = await stack.enter_async_context(open_blobs(await _blobs(control, settings)))
        buckets = await stack.enter_async_context(open_buckets(settings.buckets))
        await refuse_shadowing(control, buckets)
        vectors = await stack.enter_async_context(open_vectors(settings.vectors_url, control))
        yield Engines(
            control=control,
            runs=shared.runs,
            heartbeat=shared.heartbeat,
            wake=shared.wake,
            cache=shared.cache,
            embedder=shared.embedder,
            router=shared.router,
            spans=shared.spans,
            sql=sql,
            units=sql.units,
            databases=databases,
            blobs=blobs,
            buckets=buckets,
            vectors=vectors,
            checks=shared.checks | _checks(sql, blobs, vectors),
        )


def _refuse_other_tools(settings: Settings) -> None:
    if settings.mcp_url is not None:
        raise ConfigurationError(
            "ISTHMUS_MCP_URL: a process that opens data has its tools within; unset it, "
            "or serve the OpenAI face alone with --role openai"
        )


async def _databases(stack: AsyncExitStack, settings: Settings) -> tuple[str, str]:
    """Return the URLs of both databases; what is not set runs embedded."""
    control_url, data_url = settings.database_url, settings.data_url
    if control_url is None or data_url is None:
        cluster = await stack.enter_async_context(open_cluster(settings.data_dir))
        control_url, data_url = control_url or cluster.control_url, data_url or cluster.data_url
    _refuse_one_for_both(control_url, data_url)
    return control_url, data_url


async def _blobs(control: AsyncEngine, settings: Settings) -> Opening:
    return Opening(
        url=settings.objects_url,
        folder=settings.data_dir / "objects",
        # Each control database keeps its blobs apart: what its rows do not name is swept away.
        namespace=await blob_namespace(control),
        max_blob_bytes=settings.max_object_bytes,
        public_url=settings.objects_public_url,
    )


async def _outside(
    stack: AsyncExitStack, settings: Settings, *own: str
) -> dict[str, OutsideDatabase]:
    """Open the operator's databases; `own` are the URLs of ours."""
    for item in settings.databases:
        if _place(item.url) in [_place(url) for url in own]:
            raise ConfigurationError(
                f"ISTHMUS_DATABASES: {item.name!r} is a database of Isthmus itself; name another one"
            )
    return {
        item.name: await stack.enter_async_context(
            open_outside(
                *(item.name, item.url),
                schema=item.schema,
                writable=item.writable,
                timeout_seconds=settings.sql_timeout_seconds,
            )
        )
        for item in settings.databases
    }


def _refuse_one_for_both(control_url: str, data_url: str) -> None:
    """Tenants' roles in the control database could forge its wake-ups and hold its locks."""
    if _place(control_url) == _place(data_url):
        raise ConfigurationError(
            "ISTHMUS_DATA_URL names the database of ISTHMUS_DATABASE_URL; give the tenants' own SQL another one"
        )


def _place(url: str) -> tuple[object, ...]:
    parts = urlsplit(url)
    return (parts.hostname, parts.port or 5432, parts.path, parts.query)


def _checks(sql: SqlEngine, blobs: BlobStore, vectors: VectorEngine) -> dict[str, Check]:
    async def data_answers() -> str:
        await sql.ping()
        return "PostgreSQL answers"

    async def objects_answer() -> str:
        await blobs.answers()
        return "the blob store answers"

    async def vectors_answer() -> str:
        await vectors.answers()
        return f"{vectors.name} answers"

    return {"data": data_answers, "objects": objects_answer, "vectors": vectors_answer}
