"""A client that others wrote: the MCP Inspector's command line, against one server over every transport."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import environment, serve
from tests.node import BINARIES, install

KEY = "sk-inspector-owner-of-the-default-tenant"
RUN_SECONDS = 120.0
# A server over stdio starts anew for each question, and a busy machine takes its time.
PATIENT = ("--connect-timeout", "100000")
VALUE = {"word": "地峡", "list": [1, None, "é"]}

TRANSPORTS = ("stdio", "http", "http-modern", "sse")


@dataclass(frozen=True)
class Said:
    """How the Inspector ended, and what it printed."""

    code: int
    output: str
    errors: str

    @property
    def result(self) -> dict[str, Any]:
        assert self.code == 0, self
        return json.loads(self.output)

    @property
    def error(self) -> dict[str, Any]:
        (line,) = [line for line in self.errors.splitlines() if line.startswith('{"error"')]
        return json.loads(line)["error"]


@dataclass(frozen=True)
class Inspector:
    """The Inspector beside a running server that has a key."""

    program: Path
    home: Path
    url: str
    data_dir: Path

    def ask(self, transport: str, *arguments: str, key: str | None = KEY) -> Said:
        """Run it once; over stdio it starts a server of its own on the same data."""
        with_key = [] if key is None else ["--header", f"Authorization: Bearer {key}"]
        if transport == "stdio":
            given = environment(self.data_dir)
            own = (f"{name}={value}" for name, value in given.items() if "ISTHMUS_" in name)
            settings = [part for pair in own for part in ("-e", pair)]
            command = [sys.executable, "-m", "mcp_server", "stdio"]
            return self._run(*settings, *arguments, "--", *command)
        if transport == "sse":
            return self._run(f"{self.url}/sse", "--transport", "sse", *with_key, *arguments)
        era = ["--protocol-era", "modern"] if transport == "http-modern" else []
        return self._run(f"{self.url}/mcp", "--transport", "http", *era, *with_key, *arguments)

    def call(self, transport: str, tool: str, **arguments: Any) -> Said:
        pairs = [f"{name}={_written(value)}" for name, value in arguments.items()]
        named = ["--method", "tools/call", "--tool-name", tool]
        return self.ask(transport, *named, "--tool-arg", *pairs)

    def _run(self, *arguments: str) -> Said:
        done = subprocess.run(
            [str(BINARIES / "node"), str(self.program), "--cli", *PATIENT, *arguments],
            cwd=self.home,
            env={
                "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}",
                "HOME": str(self.home),
                "MCP_AUTO_OPEN_ENABLED": "false",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=RUN_SECONDS,
        )
        return Said(done.returncode, done.stdout, done.stderr)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture(scope="module")
def inspector(scratch: Path) -> Iterator[Inspector]:
    package = install() / "@modelcontextprotocol" / "inspector"
    program = package / "clients" / "launcher" / "build" / "index.js"
    data_dir = scratch / "inspector"
    with tempfile.TemporaryDirectory() as home, serve(data_dir, API_KEY=KEY) as server:
        yield Inspector(program, Path(home), server.url, data_dir)
        assert not [line for line in server.errors if "ERROR" in line or "Traceback" in line]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_inspector_finds_no_fault_in_the_tools(inspector: Inspector, transport: str) -> None:
    listed = inspector.ask(transport, "--method", "tools/list", "--strict").result
    names = [tool["name"] for tool in listed["tools"]]
    assert {"kv_get", "kv_set", "sql_query", "object_put", "vector_search", "agent_run"} <= {*names}
    assert names == sorted(names)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_inspector_writes_and_reads(inspector: Inspector, transport: str) -> None:
    written = inspector.call(transport, "kv_set", key=transport, value=VALUE).result
    assert written["isError"] is False
    read = inspector.call(transport, "kv_get", key=transport).result
    assert read["structuredContent"] == written["structuredContent"]
    assert read["structuredContent"]["value"] == VALUE

    shown = inspector.ask(
        transport, "--method", "resources/read", "--uri", f"kv://default/{transport}"
    )
    (content,) = shown.result["contents"]
    assert content["mimeType"] == "application/json"
    assert json.loads(content["text"]) == VALUE


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_inspector_shows_a_tools_error(inspector: Inspector, transport: str) -> None:
    failed = inspector.call(transport, "kv_get", key="absent")
    assert failed.error["code"] == "tool_is_error"
    answer = json.loads(failed.output)
    assert answer["isError"] is True
    assert answer["content"][0]["text"].startswith("not_found: ")


@pytest.mark.parametrize("transport", [name for name in TRANSPORTS if name != "stdio"])
@pytest.mark.parametrize("key", [None, "sk-isth-wrong"], ids=["no key", "a wrong key"])
def test_the_inspector_is_told_that_a_key_is_needed(
    inspector: Inspector, transport: str, key: str | None
) -> None:
    refused = inspector.ask(transport, "--method", "tools/list", key=key)
    assert refused.code == 3, refused
    assert refused.error["code"] == "auth_required"
    assert refused.output == ""
