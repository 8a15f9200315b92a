"""Blobs as files of one directory: random names, written aside, synced, then renamed into place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import anyio

from mcp_server.errors import ConfigurationError, Unavailable
from mcp_server.storage.objects import Blob, StoredBlob
from mcp_server.storage.objects.file.blob import INCOMING, Reader, Writer, is_locked, open_directory

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Disks serve a few requests at a time; more threads would only take cores from the event loop.
THREADS = 8
# A trip to a thread costs some 50 microseconds: chunks are gathered until one is worth it.
WRITE_BYTES = 512 * 1024
READ_BYTES = 256 * 1024
SHARDS = tuple(f"{number:02x}" for number in range(256))
_KEY = re.compile(r"[0-9a-f]{32}")


@asynccontextmanager
async def open_file_store(root: Path) -> AsyncGenerator[FileStore]:
    """Open the store in `root`, made if absent; the permissions of an existing directory stay.

    Raises:
        ConfigurationError: `root` cannot be made, read or written.
    """
    store = FileStore(await asyncio.to_thread(_open_root, root))
    try:
        yield store
    finally:
        await store.close()


class FileStore:
    """A `BlobStore` in a directory: `ab/abcdef…` are blobs, `incoming/` holds those being written.

    Every path is walked by directory handles with O_NOFOLLOW, and the names are our own random
    ones, so that nothing which a caller names ever becomes a path.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="blobs")

    async def close(self) -> None:
        # The threads use the handle: it may only go after the last of them.
        loop = asyncio.get_running_loop()
        try:
            await _to_its_end(loop.run_in_executor(None, self._pool.shutdown))
        finally:
            os.close(self._root)

    async def put(self, chunks: AsyncIterable[bytes]) -> Blob:
        writer = Writer(self._root, secrets.token_hex(16))
        waiting: list[bytes] = []
        size = 0
        try:
            async for chunk in chunks:
                waiting.append(chunk)
                size += len(chunk)
                if size >= WRITE_BYTES:
                    await self._in_thread(writer.write, waiting)
                    waiting, size = [], 0
            return await self._in_thread(writer.finish, waiting)
        except BaseException:
            with contextlib.suppress(Unavailable):
                await self._in_thread(writer.abandon)
            raise

    async def get(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        reader = Reader(self._root, _checked(key))
        try:
            while start < end:
                chunk = await self._in_thread(reader.read, start, min(READ_BYTES, end - start))
                if not chunk:
                    logger.error("blob store: %s ends at byte %d, before %d", key, start, end)
                    raise Unavailable("the blob store lost bytes of this object")
                start += len(chunk)
                yield chunk
        finally:
            reader.close()

    async def delete(self, key: str) -> None:
        if _KEY.fullmatch(key):  # another engine's key names nothing here
            await self._in_thread(self._delete, key)

    async def list(self) -> AsyncGenerator[StoredBlob]:
        for shard in SHARDS:
            for blob in await self._in_thread(self._list_shard, shard):
                yield blob

    async def discard_unfinished(self, before: datetime) -> int:
        return await self._in_thread(self._discard_unfinished, before.timestamp())

    async def answers(self) -> None:
        await self._in_thread(self._check)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await _to_its_end(loop.run_in_executor(self._pool, function, *arguments))
        except OSError as error:
            logger.exception("blob store: %s failed", function.__name__)
            reason = error.strerror or type(error).__name__
            raise Unavailable(f"the blob store cannot do this: {reason}") from error

    def _delete(self, key: str) -> None:
        shard = open_directory(key[:2], self._root)
        try:
            os.unlink(key, dir_fd=shard)
        except FileNotFoundError:
            return
        finally:
            os.close(shard)

    def _list_shard(self, shard: str) -> list[StoredBlob]:
        handle = open_directory(shard, self._root)
        try:
            found: list[StoredBlob] = []
            for name in _names(handle):
                written = _modified(name, handle)
                if written is not None and _KEY.fullmatch(name):
                    found.append(StoredBlob(name, datetime.fromtimestamp(written, UTC)))
            return found
        finally:
            os.close(handle)

    def _discard_unfinished(self, before: float) -> int:
        incoming = open_directory(INCOMING, self._root)
        removed = 0
        try:
            for name in _names(incoming):
                touched = _modified(name, incoming)
                if touched is not None and touched < before and not is_locked(name, incoming):
                    with contextlib.suppress(FileNotFoundError):  # another process was faster
                        os.unlink(name, dir_fd=incoming)
                        removed += 1
        finally:
            os.close(incoming)
        return removed

    def _check(self) -> None:
        incoming = open_directory(INCOMING, self._root)
        try:
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=incoming):
                raise Unavailable("the blob store's directory is not writable")
        finally:
            os.close(incoming)


async def _to_its_end(work: asyncio.Future[T]) -> T:
    """Wait for a thread and, if cancelled, return only when it is through.

    It cannot be stopped, and one that went on would use a handle that was closed meanwhile.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            while not work.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # seen, so that nothing warns of it
        raise


def _open_root(root: Path) -> int:
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # All of them now, synced once: a put then never waits for its directory's own entry.
        for name in {*SHARDS, INCOMING} - set(_names(handle)):
            _make_directory(name, handle)
        os.fsync(handle)
    except OSError as error:
        raise ConfigurationError(
            f"ISTHMUS_DATA_DIR: objects cannot be kept in {root} ({error.strerror}); "
            "choose a directory that this user can write"
        ) from error
    return handle


def _make_directory(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return  # another process was faster


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def _modified(name: str, directory: int) -> float | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return None


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise Unavailable("this is no key of the blob store")
    return key
