"""The server process of a cluster: start it, see whether it lives, stop it."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from mcp_server.errors import ConfigurationError
from mcp_server.storage.sql.embedded.account import Account
from mcp_server.storage.sql.embedded.binaries import SYNC_METHOD, complaint, run
from mcp_server.storage.sql.embedded.locks import POLL_SECONDS, is_locked, open_private, try_lock
from mcp_server.storage.sql.embedded.sockets import PORT, SOCKET_NAME, ensure_private

START_SECONDS = 60.0
STOP_SECONDS = 60.0

_SETTINGS = {
    "cluster_name": "isthmus",
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "1000",  # an idle process holds nine, and dozens of clients may start one each
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    "io_method": "sync",  # three processes fewer than the default's worker pool
    "max_logical_replication_workers": "0",  # and one more
    "client_connection_check_interval": "1s",  # a query whose client is dead ends
    "recovery_init_sync_method": SYNC_METHOD,
    "log_min_messages": "log",  # starts and crashes; never the statements of tenants
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}

# What one backend may allocate, in KiB: PostgreSQL itself sets no bound, and one tenant's `array_agg` of
# large texts would bring the kernel's killer down on every session of the server.
BACKEND_MEMORY = 1024**2
_BOUNDED = 'ulimit -d "$0" 2>/dev/null; exec "$@"'

State = Literal["stopped", "starting", "ready", "stopping"]


class Postmaster:
    """The server of the cluster in `directory`, whichever process started it.

    Its processes hold, inherited from their start, the lock on the file `running`. So the kernel
    itself says when the last of them is gone, also after kill -9, across containers and with
    recycled process ids; only then is it safe to start another one on the same files.
    """

    def __init__(self, directory: Path, account: Account, binaries: Path, sockets: Path) -> None:
        self._pgdata = directory / "pgdata"
        self._running = directory / "running"
        self._log = self._pgdata / "server.log"
        self._account = account
        self._pg_ctl = binaries / "bin" / "pg_ctl"
        self._sockets = sockets

    @property
    def state(self) -> State:
        """What the server says in `postmaster.pid`, if it lives; costs microseconds."""
        if not is_locked(self._running):
            return "stopped"
        lines = self._pid_file()
        if not lines:
            return "starting"
        if not _is_alive(int(lines[0])):
            return "stopped"  # its backends are about to notice
        status = lines[7].strip() if len(lines) > 7 else ""  # PostgreSQL's LOCK_FILE_LINE_PM_STATUS
        return status if status in ("ready", "stopping") else "starting"

    def ensure_ready(self) -> bool:
        """Return when the server accepts connections; True if this call had to start it.

        Call it under the cluster's lock. Raises `ConfigurationError` after 60 s or if it cannot start.
        """
        deadline = time.monotonic() + START_SECONDS
        started = False
        while (state := self.state) != "ready":
            if state == "stopped":
                if started:
                    raise ConfigurationError(f"PostgreSQL did not start: {self._last_words()}")
                self._start(deadline)
                started = True
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"PostgreSQL was not ready within {START_SECONDS:.0f} s: {self._last_words()}"
                )
            time.sleep(POLL_SECONDS)
        return started

    def stop(self) -> None:
        """End every session, write a checkpoint, and return when no process of the server is left.

        Call it under the cluster's lock. Raises `ConfigurationError` if even the hard way fails.
        """
        for mode, seconds in (("fast", STOP_SECONDS), ("immediate", 10.0)):
            if is_locked(self._running):
                # By pg_ctl, not by us: root must not signal whatever id an account's file names.
                with suppress(ConfigurationError):
                    run(self._account, self._pg_ctl, "stop", "-W", "-m", mode, "-D", self._pgdata)
            deadline = time.monotonic() + seconds
            while is_locked(self._running) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        if is_locked(self._running):
            raise ConfigurationError(f"PostgreSQL in {self._pgdata} does not stop")
        with suppress(OSError):
            self._sockets.rmdir()

    def _start(self, deadline: float) -> None:
        """Launch the server in a session of its own, so that our end and Ctrl-C leave it alone."""
        lock = self._claim(deadline)
        try:
            # Nobody serves this cluster: a process that now has the old id is some other program.
            (self._pgdata / "postmaster.pid").unlink(missing_ok=True)
            ensure_private(self._sockets, self._account)
            for leftover in self._sockets.glob(f"{SOCKET_NAME}*"):
                leftover.unlink()
            if self._log.exists():
                self._log.replace(self._log.with_suffix(".log.1"))
            settings = {**_SETTINGS, "unix_socket_directories": str(self._sockets)}
            # pg_ctl hands its command to a shell; the data directory may have any name, so it
            # travels in the environment, and the log's name is relative to it.
            run(
                self._account,
                Path("/bin/sh"),
                *("-c", _BOUNDED, str(BACKEND_MEMORY), self._pg_ctl),
                *("start", "-W", "-s", "-l", self._log.name),
                *("-o", shlex.join(f"--{name}={value}" for name, value in settings.items())),
                directory=self._pgdata,
                variables={"PGDATA": str(self._pgdata)},
                inherit=(lock,),
            )
        finally:
            os.close(lock)

    def _claim(self, deadline: float) -> int:
        """Take the lock of a server that has died, once the last of its backends is gone."""
        descriptor = open_private(self._running)
        while not try_lock(descriptor) or any(self._processes()):
            if not try_lock(descriptor):
                self._end_orphans()
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise ConfigurationError(
                    f"another PostgreSQL still uses {self._pgdata}: end it, also in other "
                    "containers that share this directory"
                )
            time.sleep(POLL_SECONDS)
        return descriptor

    def _end_orphans(self) -> None:
        """Kill backends that outlive their postmaster; one in a long query would not notice."""
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _processes(self) -> Generator[int]:
        """The server processes that work in this directory; none where there is no /proc."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                is_server = (process / "comm").read_text() == "postgres\n"
                if is_server and (process / "cwd").samefile(self._pgdata):
                    yield int(process.name)

    def _pid_file(self) -> list[str]:
        with suppress(FileNotFoundError):
            return (self._pgdata / "postmaster.pid").read_text().splitlines()
        return []

    def _last_words(self) -> str:
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return f"{complaint(text)} (see {self._log})"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):  # dead, but its parent has not taken note: pid 1 of many containers
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
