"""The operating-system user that PostgreSQL runs as, and what that user can reach."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from mcp_server.errors import ConfigurationError

SYSTEM_USER = "isthmus"

_TRIES = 5
_USERADD_SECONDS = 3.0  # useradd fails at once while another one holds its lock


class Switch(TypedDict, total=False):
    """The arguments of `subprocess` that make a child run as another user; empty for our own."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """A user and its primary group, by number; never root, which PostgreSQL refuses."""

    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Whether this is not the user that we run as, which only root can arrange."""
        return self.uid != os.geteuid()

    @property
    def switch(self) -> Switch:
        """What to add to a `subprocess` call so that the child runs as this user."""
        if not self.is_other:
            return Switch()
        return Switch(user=self.uid, group=self.gid, extra_groups=[])

    def own(self, path: Path) -> None:
        """Give a file or directory that we have just created to this user."""
        if self.is_other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def may(self, status: os.stat_result, access: int) -> bool:
        """Whether the mode bits grant `access` (os.R_OK, os.W_OK, os.X_OK or a sum of them)."""
        if status.st_uid == self.uid:
            granted = status.st_mode >> 6
        elif status.st_gid == self.gid:
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        return granted & access == access

    def first_closed(self, directory: Path) -> Path | None:
        """The first of `directory`'s existing ancestors, itself included, that this user cannot pass."""
        for step in (*reversed(directory.parents), directory):
            if not step.exists():
                break
            if not self.may(step.stat(), os.X_OK):
                return step
        return None


def account_for(directory: Path) -> Account:
    """The user that runs the cluster in `directory`: us, or, for root, the directory's owner or `isthmus`.

    Raises `ConfigurationError` if root has no such user and cannot create it.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    if directory.exists() and (owner := directory.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)  # a user's own cluster, opened with sudo
    entry = _system_user()
    if entry.pw_uid == 0:
        raise ConfigurationError(
            f"the user {SYSTEM_USER} is root; PostgreSQL needs an ordinary one"
        )
    return Account(entry.pw_uid, entry.pw_gid)


def _system_user() -> pwd.struct_passwd:
    """Look the user up, or create it; other processes may be creating it at the same time."""
    deadline = time.monotonic() + _USERADD_SECONDS
    while True:
        with suppress(KeyError):
            return pwd.getpwnam(SYSTEM_USER)
        problem = _useradd()
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"PostgreSQL does not run as root, and its system user {SYSTEM_USER} could not be "
                f"created ({problem}): create it, run as another user, or set "
                "ISTHMUS_DATABASE_URL and ISTHMUS_DATA_URL"
            )


def _useradd() -> str:
    """Try to create the system user; returns what useradd said."""
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if not program:
        return "this system has no useradd"
    options = ["--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent"]
    command = [program, *options, "--shell=/usr/sbin/nologin", SYSTEM_USER]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return " ".join(done.stderr.split()) or f"useradd ended with {done.returncode}"


def _make_beside(path: Path, mode: int) -> Path:
    """Make a directory next to where `path` is to be."""
    tries = 0
    while True:
        make_directory(path.parent, mode)
        tries += 1
        try:
            return Path(tempfile.mkdtemp(prefix=f".{path.name[:32]}-", dir=path.parent))
        except OSError as error:
            # To rename onto an empty directory replaces it: another process may have done so to the
            # parent in this moment.
            if tries == _TRIES or not isinstance(error, FileNotFoundError):
                raise OSError(error.errno, error.strerror, str(path)) from error


def make_directory(path: Path, mode: int) -> None:
    """Create `path` and its missing parents, each appearing at once with `mode`, whatever the umask.

    An existing directory stays as it is. Several processes may do this at the same time.
    """
    if path.is_dir():
        return
    fresh = _make_beside(path, mode)
    fresh.chmod(mode)
    try:
        fresh.rename(path)
    except OSError:
        fresh.rmdir()
        if not path.is_dir():  # not just lost to a faster process
            raise
