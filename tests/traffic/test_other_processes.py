"""What servers in other processes say under /v1 is checked, whenever they say it and whichever process runs the test."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.traffic.recording import Exchange, into, taken_from

ROOT = Path(__file__).parents[2]

# Loaded by the server as an operator's plugin: from then on its lists are named wrongly.
PLANTED = """
from openai_facade.exchange import Exchange

tell = Exchange.answer

async def answer(self, payload, status=200):
    await tell(self, payload.replace(b'"object":"list"', b'"object":"lost"'), status)

Exchange.answer = answer
"""
# A test that asks while it runs, or only when its server is about to be stopped.
ASKING = """
import urllib.request
from pathlib import Path
import pytest
from tests.e2e.processes import serve

def ask(server):
    with urllib.request.urlopen(server.url + "/v1/models") as answer:
        assert answer.read()  # the whole of it: it is recorded before its end is sent, not before its head

@pytest.fixture(scope="module")
def server():
    with serve(Path({data!r}), *{plugins!r}, AUTH="off") as server:
        yield server
        if not {during}:
            ask(server)

def test_asks(server):
    if {during}:
        ask(server)
"""


@pytest.fixture(scope="module")
def data(scratch: Path) -> Path:
    return scratch / uuid.uuid4().hex[:12]


@pytest.fixture
def planted(tmp_path: Path) -> list[str]:
    tools = tmp_path / "plugin" / "tools"
    tools.mkdir(parents=True)
    (tools / "planted.py").write_text(PLANTED)
    return ["--plugins", str(tools.parent)]


def run(folder: Path, processes: int, **given: object) -> subprocess.CompletedProcess[str]:
    """Run pytest as this project does, on one test that starts a server."""
    test = folder / "test_asking.py"
    test.write_text(ASKING.format(**given))
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "tests.traffic.plugin"),
            *("-q", "--no-cov", "-p", "no:cacheprovider", "-n", str(processes), str(test)),
        ],
        cwd=ROOT,
        env=own,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize(("during", "processes"), [(True, 1), (False, 0), (False, 1)])
def test_a_defect_planted_in_another_process_fails_the_run(
    tmp_path: Path, data: Path, planted: list[str], during: bool, processes: int
) -> None:
    done = run(tmp_path, processes, data=str(data), plugins=planted, during=during)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "GET /v1/models: answer object" in done.stdout
    assert "from other processes 1" in done.stdout
    assert ("1 passed, 1 error" in done.stdout) is during  # else no test is to blame, the run is


def test_a_line_that_is_not_whole_yet_is_read_when_it_is(tmp_path: Path) -> None:
    exchange = Exchange(
        "POST", "/v1/x", "application/json", b'{"a":1}', 200, "", b"\xff\x00", "q=1"
    )
    keep = into(tmp_path)
    keep(exchange)
    (file,) = tmp_path.iterdir()
    line = file.read_bytes()
    file.write_bytes(line + line[:9])
    read: dict[str, int] = {}
    assert list(taken_from(tmp_path, read)) == [exchange]
    assert list(taken_from(tmp_path, read)) == []
    file.write_bytes(line * 2)
    assert list(taken_from(tmp_path, read)) == [exchange]
