"""Several blobs read as one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from mcp_server.storage.objects import BlobStore


async def joined(blobs: BlobStore, parts: Iterable[tuple[str, int]]) -> AsyncGenerator[bytes]:
    """Yield the bytes of blobs one after the other; `parts` are their keys and sizes."""
    for blob, size in parts:
        if size:
            async with aclosing(blobs.get(blob, 0, size)) as chunks:
                async for chunk in chunks:
                    yield chunk
