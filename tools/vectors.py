"""Vector tools."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any

from pydantic import Field

from mcp_server.errors import InvalidInput
from mcp_server.plugins import Call, tool
from mcp_server.services.objects.content import is_textual
from mcp_server.services.vectors import Mode
from mcp_server.services.vectors.content import MAX_TEXT_BYTES
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
        str | None, Field(description="BUCKET/KEY or file-… id of a stored text")
    ] = None,
    url: Annotated[str | None, Field(description="not available yet")] = None,
    document: Annotated[str | None, Field(description="id; replaced if present")] = None,
    metadata: dict[str, Any] | None = None,
) -> VectorAdded:
    """Index a text for search: give text or object. The store is made if absent."""
    if url is not None:
        raise InvalidInput(
            "url: fetching is not available yet; fetch it yourself and pass its text", param="url"
        )
    if (text is None) == (object is None):
        raise InvalidInput(
            "text: give either text or object, not both and not none of them", param="text"
        )
    if object is not None:
        text = await _object_text(call, object)
    return await call.services.vectors.add(
        call.principal,
        store,
        text or "",
        document=document if document is not None else object,
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


async def _object_text(call: Call, name: str) -> str:
    # A file's id is its key in the bucket of files.
    bucket, _, key = (f"files/{name}" if name.startswith("file-") else name).partition("/")
    if not key:
        raise InvalidInput(
            f"object: {name[:80]!r} is not BUCKET/KEY, for example default/notes.md",
            param="object",
        )
    info, stream = await call.services.objects.open(call.principal, bucket, key)
    async with aclosing(stream):
        if not is_textual(info["content_type"]):
            raise InvalidInput(
                f"object: {name[:80]!r} is {info['content_type']}, and only text can be indexed; "
                "pass its text",
                param="object",
            )
        if info["size"] > MAX_TEXT_BYTES:
            raise InvalidInput(
                f"object: {info['size']} bytes are more than the {MAX_TEXT_BYTES} that a document "
                "may have; add it in parts, as several documents",
                param="object",
            )
        body = b"".join([part async for part in stream])
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"object: {name[:80]!r} is not UTF-8 at byte {error.start}; store it as UTF-8",
            param="object",
        ) from error
