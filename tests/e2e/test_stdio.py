"""`isthmus stdio` as a client starts it: what it reads, what it writes, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.doors import raw
from tests.doors.fixtures import PLUGIN, Record
from tests.e2e.processes import environment, postmaster_pid
from tests.e2e.test_shutdown import works

END_SECONDS = 10.0


class Stdio:
    """A process and its two pipes."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcp_server", "stdio"],
            env=environment(data_dir, **{"PLUGINS": str(PLUGIN), **settings}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def write(self, line: str | bytes | raw.Message) -> None:
        data = json.dumps(line) if isinstance(line, dict) else line
        assert self.process.stdin is not None
        self.process.stdin.write((data if isinstance(data, bytes) else data.encode()) + b"\n")
        self.process.stdin.flush()

    def read(self) -> raw.Message:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(
        self, method: str, params: dict[str, Any] | None = None, number: Any = 1
    ) -> raw.Message:
        self.write(raw.modern_request(method, params, number))
        while (answer := self.read()).get("id") != number:
            continue
        return answer

    def call(self, tool: str, arguments: dict[str, Any], number: Any = 1) -> raw.Message:
        return self.ask("tools/call", {"name": tool, "arguments": arguments}, number)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what stood on stderr."""
        postmaster = postmaster_pid(self.data_dir)
        assert self.process.stderr is not None
        code = self.process.wait(END_SECONDS)
        said = self.process.stderr.read().decode()
        deadline = time.monotonic() + 2
        while postmaster is not None and works(postmaster):
            assert time.monotonic() < deadline, "a postgres process is left"
        assert "Traceback" not in said, said
        return code, said

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def stdio(data_dir: Path) -> Iterator[Stdio]:
    stdio = Stdio(data_dir)
    yield stdio
    stdio.close()


LINES: dict[str, tuple[bytes, int]] = {
    "words": (b"hello", -32700),
    "half a message": (b'{"jsonrpc":"2.0","id":1', -32700),
    "not UTF-8": (b'\xff\xfe{"jsonrpc"', -32700),
    "half a pair": (b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}', -32700),
    "deep": (b"[" * 100_000, -32700),
    "NUL": (b"\0", -32700),
    "a number": (b"1", -32600),
    "null": (b"null", -32600),
    "an empty batch": (b"[]", -32600),
    "a batch": (json.dumps([raw.modern_request("tools/list")]).encode(), -32600),
    "no message": (b"{}", -32600),
    "another version": (b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}', -32600),
    "params are a list": (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}', -32600),
}


def test_lines_that_are_no_message_are_answered(stdio: Stdio) -> None:
    for case, (line, code) in LINES.items():
        stdio.write(line)
        answer = stdio.read()
        assert (answer["id"], answer["error"]["code"]) == (None, code), case
    for silent in (b"", b"   ", b"\t", b'{"jsonrpc":"2.0","id":9,"result":{}}'):
        stdio.write(silent)
    assert stdio.call("kv_set", {"key": "x", "value": 1})["result"]["isError"] is False


@pytest.mark.parametrize("era", [raw.MODERN, raw.HANDSHAKE])
def test_what_is_asked_wrongly_is_answered_in_the_protocols_words(stdio: Stdio, era: str) -> None:
    if era == raw.HANDSHAKE:
        stdio.write(raw.initialize())
        assert stdio.read()["result"]["protocolVersion"] == raw.HANDSHAKE
        stdio.write(raw.INITIALIZED)
    make = raw.modern_request if era == raw.MODERN else raw.request
    for method, params, code in (
        ("tools/none", {}, -32601),
        ("tools/call", {"name": "none"}, -32602),
        ("tools/call", {}, -32602),
        ("tools/call", {"name": "kv_get", "arguments": []}, -32602),
        ("resources/read", {"uri": "none://x"}, -32602),
        ("prompts/get", {"name": "none"}, -32602),
    ):
        stdio.write(make(method, params, method))
        answer = stdio.read()
        assert (answer["id"], answer["error"]["code"]) == (method, code), answer
    stdio.write(make("tools/call", {"name": "kv_get", "arguments": {"nope": 1}}, 5))
    answer = stdio.read()["result"]
    assert answer["isError"]
    assert answer["content"][0]["text"].startswith("invalid_input: nope: ")


@pytest.mark.parametrize("how", ["raise", "exit", "interrupt", "cancel"])
def test_a_tool_that_fails_leaves_the_process_running(stdio: Stdio, how: str) -> None:
    failed = stdio.call("fail", {"how": how})["result"]
    assert failed["content"][0]["text"].startswith("unavailable: fail failed unexpectedly")
    assert stdio.call("kv_list", {})["result"]["isError"] is False
    assert stdio.process.stdin is not None
    stdio.process.stdin.close()
    assert stdio.process.wait(END_SECONDS) == 0


def test_garbage_leaves_the_process_running(stdio: Stdio) -> None:
    for what in ("surrogate", "surrogate key", "deep", "object inside", "nothing"):
        answer = stdio.call("give", {"what": what})
        text = answer["error"]["message"] if "error" in answer else raw.text_of(answer["result"])
        assert text.startswith("unavailable: "), (what, text)
    assert stdio.call("kv_list", {})["result"]["isError"] is False


def test_print_in_a_tool_does_not_reach_the_protocol(data_dir: Path, tmp_path: Path) -> None:
    tools = tmp_path / "mine" / "tools"
    tools.mkdir(parents=True)
    (tools / "talk.py").write_text(
        "import os\nfrom mcp_server.plugins import tool\n@tool()\nasync def talk() -> str:\n"
        '    "Talk."\n    print("printed")\n    os.system("echo shouted")\n    return "said"\n',
        encoding="utf-8",
    )
    stdio = Stdio(data_dir, PLUGINS=str(tmp_path / "mine"))
    try:
        assert raw.text_of(stdio.call("talk", {})["result"]) == "said"
    finally:
        stdio.close()


def test_the_end_of_stdin_cancels_the_work_and_ends_the_process(
    stdio: Stdio, tmp_path: Path
) -> None:
    record = Record(tmp_path / "record")
    params = {"name": "wait", "arguments": record.arguments}
    stdio.write(raw.modern_request("tools/call", params))
    wait_for(record)
    assert stdio.process.stdin is not None
    stdio.process.stdin.close()
    code, _ = stdio.end()
    assert code == 0
    assert record.words == ["started", "cancelled"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_signal_ends_the_process(stdio: Stdio, tmp_path: Path, number: int, busy: bool) -> None:
    record = Record(tmp_path / "record")
    assert stdio.call("kv_set", {"key": "x", "value": 1})["result"]["isError"] is False
    if busy:
        params = {"name": "wait", "arguments": record.arguments}
        stdio.write(raw.modern_request("tools/call", params))
        wait_for(record)
    begun = time.monotonic()
    stdio.process.send_signal(number)
    code, _ = stdio.end()
    assert code == 0
    assert time.monotonic() - begun < 6
    assert record.words == (["started", "cancelled"] if busy else [])


def test_a_client_that_died_leaves_nothing_behind(stdio: Stdio) -> None:
    """Its end of both pipes is closed, and an answer has nowhere to go."""
    assert stdio.call("kv_set", {"key": "x", "value": 1})["result"]["isError"] is False
    assert stdio.process.stdout is not None
    stdio.process.stdout.close()
    for number in range(3):
        try:
            stdio.write(raw.modern_request("tools/list", {}, number))
        except BrokenPipeError:
            break
        time.sleep(0.2)
    assert stdio.process.stdin is not None
    with suppress(BrokenPipeError):
        stdio.process.stdin.close()
    code, _ = stdio.end()
    assert code == 0


def wait_for(record: Record) -> None:
    deadline = time.monotonic() + 20
    while "started" not in record.words:
        assert time.monotonic() < deadline, "the tool did not start"
        time.sleep(0.01)
