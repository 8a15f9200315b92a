"""Checks every exchange under /v1 that any test has with a server of ours, and says how many.

Servers in the test's own process are listened to there; those that it starts write to a folder, which is read
after each test, and once more at the end for what came later.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mcp_server.doors import DeclaredRoute
from tests.traffic.check import check
from tests.traffic.recording import FOLDER, Exchange, Recorder, taken_from

REPORT = "openai_traffic"
OTHERS = "from other processes"


@dataclass(slots=True)
class Traffic:
    """What was checked, and what did not fit though no test could be told so."""

    folder: Path
    read: dict[str, int] = field(default_factory=dict[str, int])
    counts: Counter[str] = field(default_factory=Counter[str])
    late: list[str] = field(default_factory=list[str])

    def check(self, exchanges: Iterable[Exchange]) -> list[str]:
        """Count exchanges and tell what does not fit."""
        faults: list[str] = []
        for exchange in exchanges:
            finding = check(exchange)
            self.counts["exchanges" if exchange.status < 400 else "errors"] += 1
            self.counts["events"] += finding.events
            self.counts.update(f"removed: {name}" for name in finding.removed)
            faults += [f"{exchange.method} {exchange.path}: {fault}" for fault in finding.faults]
        return faults

    def check_others(self) -> list[str]:
        """Do so with what other processes wrote since the last time."""
        exchanges = list(taken_from(self.folder, self.read))
        self.counts.update({OTHERS: len(exchanges)} if exchanges else {})
        return self.check(exchanges)


traffic = pytest.StashKey[Traffic]()


def pytest_configure(config: pytest.Config) -> None:
    """Say where the processes that tests start write to: another place for each process of pytest-xdist."""
    folder = Path(tempfile.mkdtemp(prefix="isthmus-traffic-"))
    config.stash[traffic] = Traffic(folder)
    os.environ[FOLDER] = str(folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[traffic].folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _checked_traffic(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> Iterator[None]:
    heard: list[Exchange] = []
    monkeypatch.setattr(DeclaredRoute, "handle", Recorder(heard.append).method())
    yield
    found = pytestconfig.stash[traffic]
    faults = found.check(heard) + found.check_others()
    assert faults == [], "what was said under /v1 does not fit OpenAI's document"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Check what came after the last test, and hand everything to the process that reports."""
    found = session.config.stash[traffic]
    found.late += found.check_others()
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[REPORT] = (dict(found.counts), found.late)
    elif found.late and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take in what a process of pytest-xdist found."""
    del error
    counts, late = getattr(node, "workeroutput", {}).get(REPORT, ({}, []))
    found = node.config.stash[traffic]
    found.counts.update(counts)
    found.late += late


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how much was checked, and what did not fit after the tests that it belongs to."""
    found = config.stash[traffic]
    if found.counts:
        told = ", ".join(f"{name} {number}" for name, number in sorted(found.counts.items()))
        terminalreporter.write_line(f"OpenAI traffic checked: {told}")
    for fault in found.late:
        terminalreporter.write_line(f"does not fit OpenAI's document: {fault}", red=True)
