"""Opens the engine for a URL `milvus://[USER:PASSWORD@]HOST:PORT[/DATABASE][?secure=true]`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.errors import ConfigurationError
from mcp_server.storage.sql.schema import tenants

if TYPE_CHECKING:
    from mcp_server.storage.vectors.milvus.client import Address
    from mcp_server.storage.vectors.milvus.engine import MilvusVectors

OPEN_SECONDS = 20.0


@asynccontextmanager
async def open_engine(url: str | None, control: AsyncEngine) -> AsyncGenerator[MilvusVectors]:
    """Connect, load the collections of this control database, and keep them in order until the end.

    Raises:
        ConfigurationError: the library is missing, the URL is malformed, or no server answers.
    """
    try:
        from mcp_server.storage.vectors.milvus.client import Collections
    except ImportError as error:
        raise ConfigurationError(
            "ISTHMUS_VECTORS_URL: milvus:// needs the extra milvus; start with "
            "uv run --extra milvus isthmus serve"
        ) from error
    from mcp_server.storage.vectors.milvus.engine import MilvusVectors, keeping

    address = parse(url or "")
    collections = Collections(address, await collection_prefix(control))
    try:
        await collections.connect(OPEN_SECONDS)
    except ConnectionError as error:
        await collections.close()
        raise ConfigurationError(
            f"ISTHMUS_VECTORS_URL: no Milvus answers at {address.uri} ({error}); start it, or unset "
            "the setting to keep vectors in the control database"
        ) from error
    try:
        engine = MilvusVectors(control, collections)
        async with keeping(engine):
            yield engine
    finally:
        await collections.close()


def parse(url: str) -> Address:
    """Return the address in a URL.

    Raises:
        ConfigurationError: it has no host and port, or an option that is not known.
    """
    from mcp_server.storage.vectors.milvus.client import Address

    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or 19530
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        host, port, query = None, 0, {}
    secure = query.pop("secure", ["false"])
    if not host or query or secure not in (["true"], ["false"]):
        raise ConfigurationError(
            "ISTHMUS_VECTORS_URL: it is not milvus://[USER:PASSWORD@]HOST:PORT[/DATABASE][?secure=true]"
        )
    scheme = "https" if secure == ["true"] else "http"
    shown = f"[{host}]" if ":" in host else host
    return Address(
        f"{scheme}://{shown}:{port}",
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        unquote(parts.path.strip("/")),
    )


async def collection_prefix(control: AsyncEngine) -> str:
    """Return what the collections' names begin with: two control databases never share one.

    The moment at which the database was made stays the same through dump and restore.
    """
    async with control.connect() as tx:
        query = select(tenants.c.created_at).where(tenants.c.name == "default")
        made = (await tx.execute(query)).scalar_one()
    return f"isthmus_{sha256(made.astimezone(UTC).isoformat().encode()).hexdigest()[:16]}"
