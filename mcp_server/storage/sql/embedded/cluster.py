"""Open the embedded cluster: join or start it, keep it running, and stop it with its last user."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import anyio

from mcp_server.errors import ConfigurationError
from mcp_server.storage.sql.embedded.account import Account, account_for, make_directory
from mcp_server.storage.sql.embedded.binaries import binaries_for
from mcp_server.storage.sql.embedded.initialise import (
    CONTROL_DATABASE,
    DATA_DATABASE,
    OWNER,
    check_version,
    initialise,
    read_password,
    remove_abandoned,
)
from mcp_server.storage.sql.embedded.locks import Handle, exclusive, reap_handles
from mcp_server.storage.sql.embedded.postmaster import Postmaster
from mcp_server.storage.sql.embedded.sockets import PORT, ensure_private, socket_directory

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 180.0  # the longest that another process may take for a first start
_WATCH_SECONDS = 0.2
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running PostgreSQL server, reachable over a Unix socket by those who may read its password."""

    socket_directory: Path
    password: str = field(repr=False)

    @property
    def control_url(self) -> str:
        """The control database, as its owner; the server's superuser."""
        return self.url(CONTROL_DATABASE)

    @property
    def data_url(self) -> str:
        """The tenants' database, as its owner; the server's superuser."""
        return self.url(DATA_DATABASE)

    def url(self, database: str, user: str | None = None, password: str | None = None) -> str:
        """A libpq URL for this database and login role; without `user`, for the owner."""
        if user is None:
            user, password = OWNER, self.password
        login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
        where = f"host={self.socket_directory}&port={PORT}"
        return f"postgresql://{login}@/{quote(database, safe='')}?{where}"


@asynccontextmanager
async def open_cluster(data_dir: Path) -> AsyncGenerator[Cluster]:
    """Start the cluster in `data_dir` or join it; the last of all processes to leave stops it.

    If the server dies meanwhile, it is started again; connections are lost then, no commit is.
    May be nested and opened by many processes at once. Raises `ConfigurationError` if the
    directory, the wheel or the server is not fit to run.
    """
    membership = _Membership(data_dir)
    try:
        cluster = await _to_its_end(membership.join)
        watch = asyncio.create_task(_keep_running(membership), name="embedded-postgresql-watch")
        try:
            yield cluster
        finally:
            watch.cancel()
            await asyncio.wait({watch})
    finally:
        await _to_its_end(membership.leave)


class _Membership:
    """One opening of the cluster. Its methods block; each takes the lock of all local processes."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.resolve()
        self._directory = self._data_dir / "postgres"
        self._postmaster: Postmaster | None = None
        self._handle: Handle | None = None

    @property
    def needs_restart(self) -> bool:
        """Whether the server that we joined has died."""
        return self._postmaster is not None and self._postmaster.state == "stopped"

    def join(self) -> Cluster:
        """Start the server if needed, creating its files the first time, and sign up as a user."""
        with self._clear_errors():
            account = account_for(self._directory)
            self._make_directories(account)
            with self._lock():
                remove_abandoned(self._directory)
                password = read_password(self._directory)
                binaries = binaries_for(account, self._directory)
                pgdata = self._directory / "pgdata"
                if not pgdata.exists():
                    initialise(self._directory, account, binaries, password)
                check_version(pgdata)
                sockets = socket_directory(self._directory, password)
                ensure_private(sockets, account)
                postmaster = Postmaster(self._directory, account, binaries, sockets)
                postmaster.ensure_ready()
                self._handle = Handle(self._directory / "handles")
                self._postmaster = postmaster
        return Cluster(sockets, password)

    def restart(self) -> None:
        """Start the server again unless somebody was faster, or we have left."""
        with self._clear_errors(), self._lock():
            if self._handle and self._postmaster and self._postmaster.ensure_ready():
                logger.warning("PostgreSQL in %s had died and was started again", self._data_dir)

    def leave(self) -> None:
        """Sign off and, as the last user, stop the server."""
        if not self._handle or not self._postmaster:
            return
        self._handle.drop()
        self._handle = None
        # If the directory was removed under it, the server notices within a minute and ends.
        with suppress(FileNotFoundError), self._lock():
            if not reap_handles(self._directory / "handles"):
                self._postmaster.stop()

    def _make_directories(self, account: Account) -> None:
        if account.is_other and (closed := account.first_closed(self._directory)):
            raise ConfigurationError(
                f"PostgreSQL does not run as root, and its user (uid {account.uid}) may not pass "
                f"{closed} on the way to ISTHMUS_DATA_DIR={self._data_dir}: run chmod o+x {closed}, "
                "or choose another directory (unset, it is /var/lib/isthmus)"
            )
        # Others may pass, not list: the account has to get to its own directories in here.
        make_directory(self._directory, 0o711 if account.is_other else 0o700)
        make_directory(self._directory / "handles", 0o700)

    def _lock(self) -> AbstractContextManager[None]:
        return exclusive(self._directory / "lock", _LOCK_SECONDS)

    @contextmanager
    def _clear_errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigurationError(
                f"ISTHMUS_DATA_DIR={self._data_dir} cannot hold the database: {error.strerror} "
                f"({error.filename}); choose a directory that this user can write"
            ) from error


async def _keep_running(membership: _Membership) -> None:
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        try:
            if membership.needs_restart:
                await _to_its_end(membership.restart)
        except (ConfigurationError, OSError) as error:  # the next round may do better
            logger.warning("PostgreSQL has died and does not start again yet: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)


T = TypeVar("T")


async def _to_its_end(function: Callable[[], T]) -> T:
    """Run it in a thread and, if cancelled, return only when it is through: no half start, no half stop."""
    work = asyncio.ensure_future(anyio.to_thread.run_sync(function))
    with anyio.CancelScope(shield=True):
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            await asyncio.wait({work})
            work.exception()  # seen, though nobody waits for it any more
            raise
    return work.result()
