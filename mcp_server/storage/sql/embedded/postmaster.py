"""The server process of a cluster: start it, see whether it lives, stop it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from mcp_server.errors import ConfigurationError
from mcp_server.storage.sql.embedded.account import Account, is_private
from mcp_server.storage.sql.embedded.binaries import complaint, environment
from mcp_server.storage.sql.embedded.locks import POLL_SECONDS, is_locked, open_private, try_lock

PORT = 5432
"""Only part of the socket's name: nothing listens on TCP."""

START_SECONDS = 60.0
STOP_SECONDS = 60.0

_SETTINGS = {
    "cluster_name": "isthmus",
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    "io_method": "sync",  # three processes fewer than the default's worker pool
    "client_connection_check_interval": "1s",  # a query whose client is dead ends
    "log_min_messages": "log",  # starts and crashes; never the statements of tenants
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
_SOCKET_NAME = f".s.PGSQL.{PORT}"
_SOCKET_PATH_BYTES = 100  # the kernels' limits are 107 on Linux and 103 on macOS
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")
_LOG_BYTES = 1_000_000

State = Literal["stopped", "starting", "ready", "stopping"]


class Postmaster:
    """The server of the cluster in `directory`, whichever process started it.

    Its processes hold, inherited from their start, the lock on the file `running`. So the kernel
    itself says when the last of them is gone, also after kill -9, across containers and with
    recycled process ids; only then is it safe to start another one on the same files.
    """

    def __init__(
        self, directory: Path, account: Account, binaries: Path, socket_directory: Path
    ) -> None:
        self._pgdata = directory / "pgdata"
        self._running = directory / "running"
        self._account = account
        self._binaries = binaries
        self._sockets = socket_directory

    @property
    def is_alive(self) -> bool:
        """Whether the server's main process lives, ready or not; costs microseconds."""
        return self.state != "stopped"

    @property
    def state(self) -> State:
        """What `postmaster.pid` says, if its process lives; "stopped" also while orphans end."""
        if not is_locked(self._running):
            return "stopped"
        lines = self._pid_file()
        if not lines:
            return "starting"
        if not _exists(int(lines[0])):
            return "stopped"
        status = lines[7].strip() if len(lines) > 7 else ""  # its LOCK_FILE_LINE_PM_STATUS
        return status if status in ("ready", "stopping") else "starting"

    def ensure_ready(self) -> bool:
        """Return when the server accepts connections; True if this call had to start it.

        Call it under the cluster's lock. Raises `ConfigurationError` after 60 s or if it cannot start.
        """
        deadline = time.monotonic() + START_SECONDS
        log = self._pgdata / "server.log"
        started = False
        while (state := self.state) != "ready":
            if state == "stopped" and started:
                raise ConfigurationError(f"PostgreSQL did not start: {_tail(log)} (from {log})")
            if state == "stopped":
                self._start(deadline)
                started = True
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"PostgreSQL was not ready within {START_SECONDS:.0f} s: {_tail(log)} (from {log})"
                )
            time.sleep(POLL_SECONDS)
        return started

    def stop(self) -> None:
        """End every session, write a checkpoint, and return when no process of the server is left.

        Call it under the cluster's lock. Raises `ConfigurationError` if even the hard way fails.
        """
        for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 10.0)):
            lines = self._pid_file()
            if lines and is_locked(self._running):
                with suppress(ProcessLookupError):
                    os.kill(int(lines[0]), number)
            deadline = time.monotonic() + seconds
            while is_locked(self._running):
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL_SECONDS)
            else:
                return
        raise ConfigurationError(f"PostgreSQL in {self._pgdata} does not stop")

    def _start(self, deadline: float) -> None:
        """Launch the server in a session of its own, so that our end and Ctrl-C leave it alone."""
        log = self._pgdata / "server.log"
        lock = self._claim(deadline)
        try:
            # Nobody serves this cluster: whatever process now has these ids, it is another program.
            (self._pgdata / "postmaster.pid").unlink(missing_ok=True)
            for leftover in self._sockets.glob(f"{_SOCKET_NAME}*"):
                leftover.unlink()
            if log.exists() and log.stat().st_size > _LOG_BYTES:
                log.replace(log.with_suffix(".log.1"))
            settings = {**_SETTINGS, "unix_socket_directories": str(self._sockets)}
            options = shlex.join(f"--{name}={value}" for name, value in settings.items())
            # pg_ctl hands its command to a shell, so the data directory, which may have any name,
            # travels in the environment and the log's name is relative.
            launch = subprocess.run(  # noqa: S603
                [
                    self._binaries / "bin" / "pg_ctl",
                    "start",
                    "-W",
                    "-s",
                    "-l",
                    log.name,
                    "-o",
                    options,
                ],
                env=environment(PGDATA=str(self._pgdata)),
                cwd=self._pgdata,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                pass_fds=(lock,),
                check=False,
                **self._account.switch,
            )
        finally:
            os.close(lock)
        if launch.returncode != 0:
            raise ConfigurationError(f"PostgreSQL did not start: {complaint(launch.stderr)}")

    def _claim(self, deadline: float) -> int:
        """Take the lock of a server that has died; its remaining backends are ended first."""
        descriptor = open_private(self._running)
        while not try_lock(descriptor):
            self._end_orphans()
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise ConfigurationError(
                    f"processes of another PostgreSQL still use {self._pgdata}: end them, also "
                    "in other containers that share this directory"
                )
            time.sleep(POLL_SECONDS)
        return descriptor

    def _end_orphans(self) -> None:
        """Kill backends that outlive their postmaster; one in a long query would not notice.

        They are found by their working directory, so only where /proc exists; elsewhere the
        caller waits for them.
        """
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "comm").read_text().strip() != "postgres":
                    continue
                if (process / "cwd").samefile(self._pgdata):
                    os.kill(int(process.name), signal.SIGKILL)

    def _pid_file(self) -> list[str]:
        with suppress(FileNotFoundError):
            return (self._pgdata / "postmaster.pid").read_text().splitlines()
        return []


def socket_directory(directory: Path, account: Account, password: str) -> Path:
    """A directory for the socket that only the account can enter, made if missing.

    It is in the cluster's directory if that path is short enough for a socket and plain enough for
    a URL. If not, it is in /tmp under a name that nobody can guess without the password, and that
    every process derives alike. Raises `ConfigurationError` if somebody else has taken that name.
    """
    path = directory / "socket"
    length = len(os.fsencode(path / _SOCKET_NAME))
    if length > _SOCKET_PATH_BYTES or not _PLAIN_PATH.fullmatch(str(path)):
        name = hashlib.sha256(f"{password}\n{directory}".encode(errors="surrogateescape"))
        path = Path("/tmp") / f"isthmus-{name.hexdigest()[:24]}"  # noqa: S108 - checked below
    with suppress(FileExistsError):
        path.mkdir(0o700)
        account.own(path)
    if not is_private(path, account):
        raise ConfigurationError(
            f"{path} must be a directory of user {account.uid} alone (mode 700): remove it"
        )
    return path


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _tail(log: Path) -> str:
    with suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        return complaint(file.read().decode(errors="replace"))
    return "it wrote no log"
