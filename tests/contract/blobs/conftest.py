"""Every engine for blobs, each in every place that the tests have for it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from mcp_server.storage.objects import BlobStore, Opening, open_blobs

# The place's name, and the engine that it is for.
PLACES = {"file": "file", "juicefs": "s3", "seaweedfs": "s3"}

Opener = Callable[[Path], AbstractAsyncContextManager[BlobStore]]
MOST_BYTES = 64 * 1024**3


@pytest.fixture(params=PLACES)
def url(request: pytest.FixtureRequest) -> str | None:
    """What ISTHMUS_OBJECTS_URL would be."""
    if request.param == "file":
        return None
    return request.getfixturevalue(request.param).url("blobs")


@pytest.fixture
def opener(url: str | None) -> Opener:
    """Opens a store in a place of its own for each folder."""
    return lambda folder: open_blobs(opening(url, folder))


def opening(url: str | None, folder: Path, public_url: str | None = None) -> Opening:
    return Opening(
        url=url,
        folder=folder / "objects",
        namespace=hashlib.sha256(str(folder).encode()).hexdigest()[:16],
        max_blob_bytes=MOST_BYTES,
        public_url=public_url,
    )


@pytest.fixture
async def store(opener: Opener, tmp_path: Path) -> AsyncIterator[BlobStore]:
    async with opener(tmp_path) as store:
        yield store
