"""The README's commands and snippets, run as they stand against a real server."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ServeProcess, environment, serve
from tests.unit.test_readme import README, ROOT, RUNS, blocks

KEY = "sk-isth-a-key-for-the-examples"
EXAMPLE_URL = "http://127.0.0.1:8321"


@pytest.fixture(scope="module")
def data(scratch: Path) -> Path:
    return scratch / "readme"


@pytest.fixture(scope="module")
def server(scratch: Path, data: Path) -> Iterator[ServeProcess]:
    plugins = scratch / "plugins"
    (plugins / "tools").mkdir(parents=True)
    (plugin,) = (text for text in blocks(README, "python") if "mcp_server.plugins" in text)
    (plugins / "tools" / "guestbook.py").write_text(plugin, encoding="utf-8")
    with serve(data, "--plugins", str(plugins), API_KEY=KEY) as process:
        yield process


def run(command: list[str], data: Path) -> str:
    done = subprocess.run(
        command,
        env=environment(data) | {"KEY": KEY, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def curl(server: ServeProcess, data: Path, example: str) -> str:
    return run(["bash", "-c", example.replace(EXAMPLE_URL, server.url)], data)


def curls() -> list[str]:
    return [text for text in blocks(README, "sh") if text.startswith("curl")]


def answer(output: str) -> dict[str, object]:
    """Return the JSON of an answer that is plain or one server-sent event."""
    event = re.search(r"^data: (\{.*\})$", output, re.MULTILINE)
    return json.loads(event[1] if event else output)


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
def test_curl_calls_a_tool_over_mcp(server: ServeProcess, data: Path) -> None:
    (example,) = (text for text in curls() if "/mcp" in text)
    result = answer(curl(server, data, example))["result"]
    assert isinstance(result, dict)
    assert result["isError"] is False
    assert result["structuredContent"]["value"] == "hello"


@needs_curl
def test_curl_calls_a_tool_of_the_plugin(server: ServeProcess, data: Path) -> None:
    (example,) = (text for text in curls() if "/mcp" in text)
    signed = example.replace("kv_set", "sign_guestbook").replace(
        '{"key": "greeting", "value": "hello"}', '{"name": "Ann"}'
    )
    assert "Ann was here (version " in curl(server, data, signed)


@needs_curl
def test_curl_chats(server: ServeProcess, data: Path) -> None:
    (example,) = (text for text in curls() if "/v1" in text)
    completion = answer(curl(server, data, example))
    assert completion["object"] == "chat.completion"
    assert "Hello!" in json.dumps(completion["choices"])


def test_the_python_examples_run(server: ServeProcess, data: Path) -> None:
    examples = [text for text in blocks(README, "python") if "openai" in text]
    assert len(examples) == 2
    outputs = [
        run([sys.executable, "-c", text.replace(EXAMPLE_URL, server.url)], data)
        for text in examples
    ]
    # The scripted model takes the question for the key, so the answer is what kv_get said of it.
    assert "not_found: key 'What is under the key greeting?' does not exist" in outputs[0]
    assert "scripted\n" in outputs[1]


def test_the_key_commands_work_while_the_server_is_up(server: ServeProcess, data: Path) -> None:
    (example,) = (text for text in blocks(README, "sh") if "keys create" in text)
    key_id = output = ""
    for line in example.splitlines():
        words = shlex.split(line, comments=True)
        assert words[:3] == ["uv", "run", "isthmus"]
        arguments = [key_id if word == "KEY_ID" else word for word in words[3:]]
        output = run([sys.executable, "-m", "mcp_server", *arguments], data)
        key_id = key_id or output.split()[0]
    assert output.startswith("revoked ")


READINGS = 150
WAIT_SECONDS = 120


@contextmanager
def worker(data: Path, plugins: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker that is ready; killed at the end unless it has ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mcp_server", "worker", "--plugins", str(plugins)],
        env=environment(data),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "Isthmus worker is ready (8 slots)\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def eventually(ask: Callable[[], Any], enough: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not enough(found := ask()):
        assert time.monotonic() < deadline, found
    return found


@needs_curl
def test_the_long_tool_of_the_docs_survives_its_worker(scratch: Path) -> None:
    plugins, data = scratch / "long", scratch / "runs"
    (plugins / "tools").mkdir(parents=True)
    sources = blocks(ROOT / "docs" / "plugins.md", "python")
    (source,) = (text for text in sources if "import_readings" in text)
    (plugins / "tools" / "import_readings.py").write_text(source, encoding="utf-8")
    commands, begin, interrupt, look = blocks(RUNS, "sh")
    assert "serve --role mcp --plugins" in commands
    assert "worker --plugins" in commands
    begin = begin.replace(" 500 ", f" {READINGS} ")
    function = begin[: begin.index("call object_put")]
    arguments = ("--role", "mcp", "--plugins", str(plugins))
    with serve(data, *arguments, API_KEY=KEY) as server:

        def shell(script: str) -> str:
            return curl(server, data, f"{function}{script}")

        with worker(data, plugins) as first:
            asked = curl(server, data, begin)
            assert f"waits for input: Import {READINGS} readings?" in asked
            name = f"RUN={re.findall('run_[0-9a-f]{32}', asked)[0]}"
            *answering, _ = interrupt.replace("RUN=run_…", name).splitlines()
            shell("\n".join(answering))
            state = f"{name}; call run_get '{{\"run\": \"'$RUN'\"}}'"

            def run_now() -> dict[str, Any]:
                result: Any = answer(shell(state))["result"]
                return result["structuredContent"]

            begun = eventually(
                run_now,
                lambda now: now["ended_at"] or (now["progress"] or {"done": 0})["done"] >= 3,
            )
            assert begun["status"] == "running", begun
            first.kill()
        assert run_now()["status"] == "running"  # nobody knows yet
        with worker(data, plugins):
            ended = eventually(run_now, lambda now: now["ended_at"] is not None)
        assert ended["output"]["structured"] == {"result": f"{READINGS} imported"}
        rows, events = (
            json.loads(line)["result"]["structuredContent"]
            for line in shell(f"{name}\n{look}").splitlines()
        )
    assert rows["rows"] == [[READINGS, READINGS]]
    numbers = [event["seq"] for event in events["items"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [event["attempt"] for event in events["items"] if event["type"] == "resumed"] == [2, 3]
