"""Where the server's Unix socket lives: a directory that only its own user can enter."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from mcp_server.errors import ConfigurationError
from mcp_server.storage.sql.embedded.account import Account

PORT = 5432
"""Only part of the socket's name: nothing listens on TCP."""

SOCKET_NAME = f".s.PGSQL.{PORT}"

_PATH_BYTES = 100  # the kernels' limits are 107 on Linux and 103 on macOS
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")


def socket_directory(directory: Path, password: str) -> Path:
    """In the cluster's directory, if that path is short enough for a socket and plain enough for a URL.

    If not, in /tmp, under a name that every process derives alike and nobody can guess.
    """
    path = directory / "socket"
    length = len(os.fsencode(path / SOCKET_NAME))
    if length <= _PATH_BYTES and _PLAIN_PATH.fullmatch(str(path)):
        return path
    name = hashlib.sha256(password.encode() + os.fsencode(directory)).hexdigest()
    return Path("/tmp") / f"isthmus-{name[:24]}"  # noqa: S108 - ensure_private trusts nothing there


def ensure_private(path: Path, account: Account) -> None:
    """Create the directory for the account, or see that it is the account's alone.

    Raises `ConfigurationError` if it is somebody else's, a link, or open to others.
    """
    with suppress(FileExistsError):
        path.mkdir(0o700)
    if path.lstat().st_uid == os.geteuid():  # just made, or by one of us who died before this line
        account.own(path)
    status = path.lstat()
    others = status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != account.uid or others:
        raise ConfigurationError(
            f"{path} must be a directory of the user with id {account.uid}, with mode 700: remove it"
        )
