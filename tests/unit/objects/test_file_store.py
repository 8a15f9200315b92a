"""The directory store: its files and permissions, links in its way, a full disk, puts that died."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mcp_server.errors import ConfigurationError, Unavailable
from mcp_server.storage.objects.file import FileStore, open_file_store

MIB = 1024 * 1024


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "a" / "objects"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[FileStore]:
    async with open_file_store(root) as store:
        yield store


async def stream(*chunks: bytes) -> AsyncGenerator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(store: FileStore, key: str, size: int) -> bytes:
    return b"".join([chunk async for chunk in store.get(key, 0, size)])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def directories(root: Path) -> list[Path]:
    return [root, *(path for path in root.rglob("*") if path.is_dir())]


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def test_only_the_owner_can_read_what_is_stored(store: FileStore, root: Path) -> None:
    blob = await store.put(stream(b"secret"))
    assert {mode(path) for path in directories(root)} == {0o700}
    assert [(path.name, mode(path)) for path in files(root)] == [(blob.key, 0o600)]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


async def test_an_existing_directory_keeps_its_permissions(shared: Path) -> None:
    async with open_file_store(shared):
        assert mode(shared) == 0o755


@pytest.mark.parametrize("place", ["a", "a/objects"])
async def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("in the way")
    with pytest.raises(ConfigurationError, match="ISTHMUS_DATA_DIR"):
        async with open_file_store(tmp_path / "a" / "objects"):
            pass


async def test_links_in_the_store_are_not_followed(
    store: FileStore, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    blob = await store.put(stream(b"bytes"))
    place = root / blob.key[:2] / blob.key

    place.unlink()
    place.symlink_to(outside / "secret")
    with pytest.raises(Unavailable):
        await read(store, blob.key, 6)

    place.unlink()
    place.parent.rmdir()
    place.parent.symlink_to(outside)
    (outside / blob.key).write_text("planted")
    with pytest.raises(Unavailable):
        await read(store, blob.key, 6)
    with pytest.raises(Unavailable):
        await store.delete(blob.key)
    assert (outside / blob.key).exists()


async def test_a_link_in_the_way_of_a_put_is_not_written_through(
    store: FileStore, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "incoming").rmdir()
    (root / "incoming").symlink_to(outside)
    with pytest.raises(Unavailable):
        await store.put(stream(b"bytes"))
    assert list(outside.iterdir()) == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make the kernel refuse to write past `size` bytes, as a full disk or a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_is_an_error_that_leaves_nothing(store: FileStore, root: Path) -> None:
    with largest_file(3 * MIB), pytest.raises(Unavailable) as caught:
        await store.put(stream(*[b"x" * MIB] * 4))
    assert str(root) not in str(caught.value)
    assert files(root) == []
    assert (await store.put(stream(b"it goes on"))).size == 10


async def test_a_store_that_lost_its_directory_does_not_answer(
    store: FileStore, root: Path
) -> None:
    await store.answers()
    (root / "incoming").rmdir()
    with pytest.raises(Unavailable):
        await store.answers()


DYING = """
import asyncio, pathlib, sys
from mcp_server.storage.objects.file import open_file_store

async def endless():
    while True:
        yield b"x" * 1048576
        print("more", flush=True)
        await asyncio.sleep(0.01)

async def main():
    async with open_file_store(pathlib.Path(sys.argv[1])) as store:
        await store.put(endless())

asyncio.run(main())
"""


@pytest.fixture
def putting(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process in the middle of a put."""
    child = subprocess.Popen([sys.executable, "-c", DYING, root], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout as said:
        for _ in range(3):
            assert said.readline() == b"more\n"
        yield child
    child.kill()
    child.wait()


async def test_what_a_killed_put_left_is_discarded_once_it_is_old(
    store: FileStore, root: Path, putting: subprocess.Popen[bytes]
) -> None:
    assert await store.discard_unfinished(datetime.now(UTC) + timedelta(days=1)) == 0
    putting.kill()
    putting.wait()
    (left,) = files(root)
    assert [blob async for blob in store.list()] == []
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    assert await store.discard_unfinished(hour_ago) == 0
    long_ago = time.time() - 7200
    os.utime(left, (long_ago, long_ago))
    assert await store.discard_unfinished(hour_ago) == 1
    assert files(root) == []
