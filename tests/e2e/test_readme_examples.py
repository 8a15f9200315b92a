"""The README's commands and snippets, run as they stand against a real server."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import ServeProcess, environment, serve
from tests.unit.test_readme import README, blocks

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
