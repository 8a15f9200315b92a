"""Locks that the kernel drops when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from mcp_server.errors import ConfigurationError

POLL_SECONDS = 0.01


def open_private(path: Path) -> int:
    """Open or create a file that only its directory's owner can read; returns a descriptor.

    Children do not inherit the descriptor, so a lock on it ends with this process.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if os.geteuid() == 0:  # root in a user's cluster leaves nothing that this user cannot open
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock the open file if nobody else holds it; returns at once."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock on `path`; a missing file is not locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        # A shared lock: two processes that look at the same time do not see each other.
        return not try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(path: Path, seconds: float) -> Generator[None]:
    """Hold the lock on `path`; waits up to `seconds`, then raises `ConfigurationError`."""
    descriptor = open_private(path)
    try:
        deadline = time.monotonic() + seconds
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"another process has been starting or stopping PostgreSQL for {seconds:.0f} s "
                    f"and holds {path}: end that process, then try again"
                )
            time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


class Handle:
    """One user of the cluster: a file that is locked for as long as its process lives.

    The lock, not a process id, says who lives: ids are used again, and differ between containers.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._descriptor = open_private(self._path)
        try_lock(self._descriptor)

    def drop(self) -> None:
        """Leave the list."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def reap_handles(directory: Path) -> int:
    """Remove the handles of dead processes and return how many live; call it under the cluster's lock."""
    living = 0
    for path in directory.iterdir():
        if is_locked(path):
            living += 1
        else:
            with suppress(FileNotFoundError):
                path.unlink()
    return living
