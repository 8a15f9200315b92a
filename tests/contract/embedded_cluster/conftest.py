"""Data directories for real clusters, in which no server may outlive its test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcp_server.storage.sql.embedded import open_cluster
from tests.contract.embedded_cluster.processes import end_servers


@contextmanager
def _reachable_folder() -> Iterator[Path]:
    """A folder that every user may pass, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="isthmus-test-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder."""
    with _reachable_folder() as path:
        yield path
        assert end_servers(path) == []


@pytest.fixture
def data_dir(folder: Path) -> Path:
    """A data directory that does not exist yet."""
    return folder / "data"


@pytest.fixture(scope="module")
async def _prepared(anyio_backend: object) -> AsyncIterator[Path]:
    with _reachable_folder() as path:
        async with open_cluster(path / "data"):
            pass
        yield path / "data"


@pytest.fixture
def used_dir(_prepared: Path) -> Iterator[Path]:
    """A data directory that other processes have used before."""
    yield _prepared
    assert end_servers(_prepared) == []
