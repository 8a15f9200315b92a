"""Every engine that objects may live on, each in every place that the tests have for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from mcp_server.storage.objects import BlobStore, Opening, open_blobs

PLACES = ("file", "juicefs", "seaweedfs")
MOST_BYTES = 64 * 1024**3

Opener = Callable[[], AbstractAsyncContextManager[BlobStore]]


def url_of(request: pytest.FixtureRequest) -> str | None:
    """Return what ISTHMUS_OBJECTS_URL would be for the place that a fixture is parametrized with."""
    if request.param == "file":
        return None
    return request.getfixturevalue(request.param).url("objects")


def opening(url: str | None, folder: Path, namespace: str) -> Opening:
    return Opening(url=url, folder=folder, namespace=namespace, max_blob_bytes=MOST_BYTES)


def opener(url: str | None, folder: Path, namespace: str) -> Opener:
    return lambda: open_blobs(opening(url, folder, namespace))
