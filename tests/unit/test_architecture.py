"""The shape of the code: sizes, names, pins. Import directions are held by import-linter."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SOURCES = ("mcp_server", "openai_facade", "tools", "resources")
MOST_LINES, MOST_FUNCTION_LINES = 300, 40
BANNED_NAMES = {"utils", "helpers", "common", "manager", "misc", "base"}

# What is longer, and why it is one job all the same.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {
    "mcp_server/runtime.py:open_runtime": "the composition root is one sequence of openings",
    "mcp_server/operation.py:__call__": "the one place that decides, meters, journals and audits",
    "tools/agents.py:agent_save": "the fields of a definition are its arguments, one a line",
}


def sources() -> list[Path]:
    return sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function with its number of lines, its docstring not counted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield f"{name(path)}:{node.name}", lines


def test_no_file_has_two_jobs() -> None:
    long = {name(path) for path in sources() if len(path.read_text().splitlines()) > MOST_LINES}
    assert long == set(LONG_FILES)


def test_no_function_has_two_jobs() -> None:
    long = {
        where
        for path in sources()
        for where, lines in functions(path)
        if lines > MOST_FUNCTION_LINES
    }
    assert long == set(LONG_FUNCTIONS)


@pytest.mark.parametrize("path", sources(), ids=name)
def test_a_module_says_its_one_job_and_has_a_name_of_its_own(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "no docstring"
    assert path.stem not in BANNED_NAMES
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text(encoding="utf-8"))


def test_the_pins_of_the_project_are_those_of_the_lock_file() -> None:
    pinned = runpy.run_path(str(ROOT / ".ci" / "constraints.py"))["pinned"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert project["tool"]["uv"]["constraint-dependencies"] == pinned(lock)
    assert "http" not in re.sub(r"httpx?[\w-]*==|httptools==|httpcore[\w-]*==", "", lock)


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {line.partition("==")[0] for line in lock.splitlines() if "==" in line}
    wanted = project["project"]["dependencies"] + [
        item
        for group in (project["project"]["optional-dependencies"], project["dependency-groups"])
        for items in group.values()
        for item in items
    ]
    names = {re.split(r"[\[<>=;~! ]", item)[0].lower() for item in wanted}
    assert names <= locked


def test_the_environment_is_the_pinned_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for pin in project["tool"]["uv"]["constraint-dependencies"]:
        wanted = Requirement(pin)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            installed = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra
        assert wanted.specifier.contains(installed, prereleases=True), pin
