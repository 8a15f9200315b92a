"""Create the cluster's files: `pgdata` appears complete, with both databases, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from mcp_server.errors import ConfigurationError
from mcp_server.storage.sql.embedded.account import Account
from mcp_server.storage.sql.embedded.binaries import COPYING, MAJOR, SYNC_METHOD, run
from mcp_server.storage.sql.embedded.locks import open_private

OWNER = "isthmus"
CONTROL_DATABASE = "isthmus"
DATA_DATABASE = "isthmus_data"

_LIMIT_SECONDS = 120.0
_ORPHAN_SECONDS = 10.0
_STAGING = "initdb-"

_OPTIONS = (
    f"--username={OWNER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    # The builtin locale sorts and folds Unicode alike on every platform and libc.
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    "--no-sync",  # all is synced at once, at the end
)

_DATABASES = f"""\
CREATE DATABASE {CONTROL_DATABASE};
CREATE DATABASE {DATA_DATABASE};
REVOKE ALL ON DATABASE {CONTROL_DATABASE} FROM PUBLIC;
REVOKE ALL ON DATABASE postgres FROM PUBLIC;
REVOKE ALL ON DATABASE template1 FROM PUBLIC;
"""
"""One statement a line, as single-user mode wants it. A tenant's login role gets to its own database only."""

_EXTENSIONS = "CREATE EXTENSION vector;\n"


def read_password(directory: Path) -> str:
    """The owner role's password, made and stored on first use: 256 random bits, safe in a URL.

    Raises `ConfigurationError` if it is lost.
    """
    path = directory / "password"
    if not path.exists():
        if (directory / "pgdata").exists():
            raise ConfigurationError(f"{path} is missing: restore it from your backup")
        fresh = directory / "password.new"
        fresh.unlink(missing_ok=True)
        with os.fdopen(open_private(fresh), "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    return path.read_text()


def check_version(pgdata: Path) -> None:
    """Refuse files of another major version: `ConfigurationError`."""
    found = (pgdata / "PG_VERSION").read_text().strip()
    if found != MAJOR:
        raise ConfigurationError(
            f"{pgdata} holds data of PostgreSQL {found}, and this release runs PostgreSQL {MAJOR}: "
            "open it with the release that wrote it and export, or choose another ISTHMUS_DATA_DIR"
        )


def initialise(directory: Path, account: Account, binaries: Path, password: str) -> None:
    """Run initdb beside `pgdata`, create the databases, then rename; call it under the cluster's lock.

    A crash at any point leaves no `pgdata`. Raises `ConfigurationError`.
    """
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=directory))
    account.own(staging)
    try:
        fresh = staging / "pgdata"
        secret = _password_file(staging, account, password)
        _initdb(account, binaries, fresh, *_OPTIONS, f"--pwfile={secret}")
        _execute(account, binaries, fresh, "postgres", _DATABASES)
        _execute(account, binaries, fresh, CONTROL_DATABASE, _EXTENSIONS)
        _initdb(account, binaries, fresh, "--sync-only", f"--sync-method={SYNC_METHOD}")
        fresh.rename(directory / "pgdata")
        _sync(directory)
    except ConfigurationError as error:
        raise ConfigurationError(f"no database could be set up in {directory}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_abandoned(directory: Path) -> None:
    """Remove what processes that died while they prepared files here have left.

    An orphaned initdb that still writes brings files back while they are removed, until one of its writes
    finds no folder; so this looks again for a few seconds, and leaves to the next start what outlasts that.
    """
    patience = time.monotonic() + _ORPHAN_SECONDS
    for pattern in (f"{_STAGING}*", f"{COPYING}*"):
        for abandoned in directory.glob(pattern):
            shutil.rmtree(abandoned, ignore_errors=True)
            while abandoned.exists() and time.monotonic() < patience:
                time.sleep(0.02)
                shutil.rmtree(abandoned, ignore_errors=True)


def _password_file(staging: Path, account: Account, password: str) -> Path:
    path = staging / "password"
    with os.fdopen(open_private(path), "w") as file:
        file.write(password)
    account.own(path)
    return path


def _initdb(account: Account, binaries: Path, pgdata: Path, *options: str) -> None:
    program = binaries / "bin" / "initdb"
    run(account, program, f"--pgdata={pgdata}", *options, seconds=_LIMIT_SECONDS)


def _execute(account: Account, binaries: Path, pgdata: Path, database: str, sql: str) -> None:
    """Run statements in single-user mode: no socket, no other session, the first error ends it."""
    single = ["--single", "-D", pgdata, "-c", "exit_on_error=on", "-c", "fsync=off", database]
    run(account, binaries / "bin" / "postgres", *single, feed=sql, seconds=_LIMIT_SECONDS)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
