"""Byte streams to put, and what a store holds."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from mcp_server.storage.objects import BlobStore


async def stream(*chunks: bytes) -> AsyncGenerator[bytes]:
    for chunk in chunks:
        yield chunk


async def stored(blobs: BlobStore) -> set[str]:
    return {blob.key async for blob in blobs.list()}
