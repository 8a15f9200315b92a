"""Vector tools."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mcp_server.plugins import Call, tool
from mcp_server.services.ingest import Origin
from mcp_server.services.vectors import Mode
from mcp_server.services.vectors.results import (
    VectorAdded,
    VectorDeleted,
    VectorPage,
    VectorResults,
    VectorStoreDeleted,
    VectorUpdated,
)

Store = Annotated[str, Field(description="name or vs_… id")]
Filter = Annotated[
    dict[str, Any] | None,
    Field(
        description="{type: eq|ne|gt|gte|lt|lte|in|nin, key, value} or {type: and|or, filters: […]}"
        " over metadata"
    ),
]


@tool(verb="write")
async def vector_add(
    call: Call,
    store: Store,
    text: str | None = None,
    object: Annotated[  # noqa: A002 - the contract's name
        str | None, Field(description="BUCKET/KEY or file-… id")
    ] = None,
    url: Annotated[str | None, Field(description="http(s)")] = None,
    document: Annotated[str | None, Field(description="id; replaced if present")] = None,
    metadata: dict[str, Any] | None = None,
) -> VectorAdded:
    """Index a document for search: give text, object or url. The store is made if absent."""
    origin = Origin(text, object, url)
    origin.check()
    if text is not None:  # nothing is to be read, and it gets an id of its own
        return await call.services.vectors.add(
            call.principal,
            store,
            text,
            document=document,
            metadata=metadata,
            idempotency_key=call.key,
            progress=call.progress,
        )
    return await call.services.ingest.add(
        call.principal,
        store,
        origin,
        document=document,
        metadata=metadata,
        idempotency_key=call.key,
        progress=call.progress,
    )


@tool(verb="read", read_only=True, destructive=False)
async def vector_search(
    call: Call,
    store: Store,
    query: str,
    k: Annotated[int, Field(description="1-100")] = 10,
    filter: Filter = None,  # noqa: A002 - the contract's name
    mode: Annotated[Mode, Field(description="text finds exact words and identifiers")] = "hybrid",
    weights: Annotated[
        dict[str, float] | None, Field(description="of hybrid: {dense: 1, text: 1}")
    ] = None,
    min_score: Annotated[
        float | None, Field(description="leave out what scores less: cosine, BM25, or rank sums")
    ] = None,
) -> VectorResults:
    """Find passages by meaning (dense), by words (text) or by both, each with where it stands."""
    return await call.services.vectors.search(
        call.principal,
        store,
        query,
        k=k,
        filter=filter,
        mode=mode,
        weights=weights,
        min_score=min_score,
    )


@tool(verb="write")
async def vector_update(
    call: Call,
    store: Store,
    metadata: Annotated[
        dict[str, Any], Field(description="merged into what is there; null removes a key")
    ],
    document: str | None = None,
    filter: Filter = None,  # noqa: A002 - the contract's name
) -> VectorUpdated:
    """Change the metadata of one document, or of all that fit a filter; nothing is embedded again."""
    return await call.services.vectors.update(
        call.principal,
        store,
        metadata,
        document=document,
        filter=filter,
        idempotency_key=call.key,
    )


@tool(verb="write")
async def vector_delete(
    call: Call,
    store: Store,
    document: str | None = None,
    filter: Filter = None,  # noqa: A002 - the contract's name
) -> VectorDeleted:
    """Delete one document, or all that fit a filter."""
    return await call.services.vectors.delete(
        call.principal, store, document=document, filter=filter, idempotency_key=call.key
    )


@tool(verb="write")
async def vector_store_delete(call: Call, store: Store) -> VectorStoreDeleted:
    """Delete a store with all its documents; it cannot be undone."""
    return await call.services.vectors.delete_store(call.principal, store, idempotency_key=call.key)


@tool(verb="read", read_only=True, destructive=False)
async def vector_list(
    call: Call,
    store: Store,
    filter: Filter = None,  # noqa: A002 - the contract's name
    limit: int | None = None,
    cursor: str | None = None,
) -> VectorPage:
    """List documents in byte order of their ids, with their metadata."""
    return await call.services.vectors.list(
        call.principal, store, filter=filter, limit=limit, cursor=cursor
    )
