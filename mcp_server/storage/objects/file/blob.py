"""One file of the directory store while it is written or read; everything here blocks."""

from __future__ import annotations

import fcntl
import hashlib
import os

from mcp_server.storage.objects import Blob

INCOMING = "incoming"


def open_directory(name: str, parent: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


class Writer:
    """Writes one blob beside the others and moves it in when it is complete and on the disk."""

    def __init__(self, root: int, key: str) -> None:
        self._root = root
        self._key = key
        self._file: int | None = None
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def write(self, parts: list[bytes]) -> None:
        file = self._opened()
        for part in parts:
            self._sha256.update(part)
            self._md5.update(part)
            self._size += len(part)
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(file, rest) :]

    def finish(self, parts: list[bytes]) -> Blob:
        """Write the rest, make it durable and visible."""
        self.write(parts)
        os.fsync(self._opened())
        incoming = open_directory(INCOMING, self._root)
        try:
            shard = open_directory(self._key[:2], self._root)
            try:
                os.rename(self._key, self._key, src_dir_fd=incoming, dst_dir_fd=shard)
                os.fsync(shard)
            finally:
                os.close(shard)
        finally:
            os.close(incoming)
        self._close()
        return Blob(self._key, self._size, self._sha256.hexdigest(), self._md5.hexdigest())

    def abandon(self) -> None:
        """Remove what was written, wherever it got to; nobody was told of it."""
        self._close()
        for place in (INCOMING, self._key[:2]):
            directory = open_directory(place, self._root)
            try:
                os.unlink(self._key, dir_fd=directory)
            except FileNotFoundError:
                continue
            finally:
                os.close(directory)

    def _opened(self) -> int:
        if self._file is None:
            self._file = self._create()
        return self._file

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        incoming = open_directory(INCOMING, self._root)
        try:
            file = os.open(self._key, flags, 0o600, dir_fd=incoming)
        finally:
            os.close(incoming)
        # Held until the file is closed, by a crash too: so others can tell a slow put from a dead one.
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Reader:
    """Reads one blob, opened by the first read; an open file survives its deletion."""

    def __init__(self, root: int, key: str) -> None:
        self._root = root
        self._key = key
        self._file: int | None = None

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`, none at the end of the file."""
        if self._file is None:
            shard = open_directory(self._key[:2], self._root)
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = os.open(self._key, flags, dir_fd=shard)
            finally:
                os.close(shard)
        return os.pread(self._file, size, offset)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_locked(name: str, directory: int) -> bool:
    """Tell whether a living process writes the file."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return True  # finished or abandoned this moment, or nothing of ours
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
