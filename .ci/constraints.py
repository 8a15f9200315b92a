"""Copy the versions of requirements.lock into pyproject.toml, so that `uv run` installs just those."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN = (
    "# Generated from requirements.lock by .ci/pins; do not edit.\nconstraint-dependencies = [\n"
)


def pinned(lock: str) -> list[str]:
    """Return every `name==version ; marker` of a lock file, without hashes."""
    lines = (line.removesuffix("\\").rstrip() for line in lock.splitlines())
    # What the override of the weights package shuts out is resolved all the same; nobody installs it.
    return sorted(
        line for line in lines if re.match(r"[A-Za-z0-9]", line) and "'never'" not in line
    )


def with_constraints(project: str, lock: str) -> str:
    """Return pyproject.toml's text with the lock's pins in its place for them."""
    block = BEGIN + "".join(f'    "{pin}",\n' for pin in pinned(lock)) + "]\n"
    old = re.search(re.escape(BEGIN) + r"(?:    \".*\n)*\]\n", project)
    if old:
        return project[: old.start()] + block + project[old.end() :]
    anchor = "[tool.hatch.version]"
    return project.replace(anchor, f"{block}\n{anchor}", 1)


if __name__ == "__main__":
    path = ROOT / "pyproject.toml"
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    path.write_text(with_constraints(path.read_text(encoding="utf-8"), lock), encoding="utf-8")
