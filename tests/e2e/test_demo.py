"""`isthmus demo`: every step on a server of its own and on a running one, and what it says when a step fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp_types import TextContent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_server.commands.demo import STEPS, demo, storing
from mcp_server.commands.demo.tour import Tour
from mcp_server.errors import ConfigurationError
from mcp_server.settings import load_settings
from tests.doors.live import serving
from tests.e2e.processes import ISTHMUS, ServeProcess, environment, serve

KEY = "sk-the-operators-own-key"
DEMO_SECONDS = 200


@pytest.fixture
def temporary(scratch: Path) -> Path:
    """A folder for temporary files that is empty before and must be empty after."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    folder.chmod(0o755)
    return folder


def start_demo(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*ISTHMUS, "demo", *arguments],
        env=environment(temporary / "unused") | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_every_step_works_on_a_server_of_its_own_and_nothing_of_it_stays(temporary: Path) -> None:
    process = start_demo(temporary)
    output, _ = process.communicate(timeout=DEMO_SECONDS)
    assert process.returncode == 0, output
    for number, (title, _) in enumerate(STEPS, start=1):
        assert f"{number}/{len(STEPS)}  {title}\n" in output
    assert f"All {len(STEPS)} steps worked, in " in output
    assert "protocol 2026-07-28" in output
    assert "conflict: version is " in output
    assert output.count("score") == 4
    assert "does not join the two languages" not in output
    assert 'The server called sql_query({"sql": "select name, span_m from demo_bridges_' in output
    assert "1915 Canakkale Bridge" in output
    assert "\x1b" not in output  # no terminal, no colours
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_interrupted_it_ends_its_server_and_removes_the_data(
    temporary: Path, number: signal.Signals, code: int
) -> None:
    process = start_demo(temporary)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("2/8"):
            break
    servers = children(process.pid)
    assert servers
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert list(temporary.iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in servers)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in listed.split()]


def test_it_ends_quietly_when_nobody_reads_on(temporary: Path) -> None:
    process = start_demo(temporary)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("1/8"):
            break
    process.stdout.close()
    assert process.wait(DEMO_SECONDS) == 1
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def server(scratch: Path) -> Iterator[ServeProcess]:
    with serve(scratch / "demo", API_KEY=KEY) as process:
        yield process


async def run(url: str, key: str | None = KEY) -> int:
    return await demo(load_settings(), url=url, key=key)


async def ask(server: ServeProcess, tool: str, **arguments: Any) -> str:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(f"{server.url}/mcp", http_client=http)) as client,
    ):
        result = await client.call_tool(tool, arguments)
    return "".join(part.text for part in result.content if isinstance(part, TextContent))


async def test_on_a_running_server_it_takes_back_what_it_made(
    server: ServeProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(f"{server.url}/v1/") == 0
    output = capsys.readouterr().out
    assert "Cleaned up: everything named demo-" in output
    mark = output.partition("everything named demo-")[2][:6]
    assert f"demo_bridges_{mark}" not in await ask(server, "sql_schema", detail="names")
    assert mark not in await ask(server, "kv_list")
    assert mark not in await ask(server, "object_list", bucket=f"demo-{mark}")
    assert mark not in await ask(server, "vector_list", store="demo-notes")
    assert '"name":"demo-guide"' in await ask(server, "agent_list")


@pytest.fixture
def reading_key(server: ServeProcess) -> str:
    made = subprocess.run(
        [sys.executable, "-m", "mcp_server", "keys", "create", "reader", "--scope", "read"],
        env=environment(server_data(server)),
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.partition("API key: ")[2].split()[0]


async def test_a_step_that_fails_is_named_with_the_servers_words(
    server: ServeProcess, reading_key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(server.url, reading_key) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Failed after ")
    assert (
        "Step 2 (SQL: a table of your own, loaded and queried): sql_execute answered: forbidden"
        in last
    )


def server_data(server: ServeProcess) -> Path:
    environ = Path(f"/proc/{server.process.pid}/environ").read_bytes().split(b"\0")
    own = next(item for item in environ if item.startswith(b"ISTHMUS_DATA_DIR="))
    return Path(os.fsdecode(own.partition(b"=")[2]))


async def test_a_server_that_dies_on_the_way_is_told_with_what_it_keeps(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(data_dir, API_KEY=KEY) as server:

        async def stop(_: Tour) -> None:
            server.stop()

        steps = (("Write", storing.kv), ("Stop", stop), ("Write again", storing.kv))
        monkeypatch.setattr("mcp_server.commands.demo.STEPS", steps)
        assert await run(server.url) == 1
    output = capsys.readouterr().out
    assert "Step 3 (Write again): " in output
    assert 'kv_delete {"key": "demo-' in output
    assert "Cleaned up" not in output


async def test_without_the_openai_package_its_step_says_how_to_get_it(
    server: ServeProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    assert await run(server.url) == 1
    output = capsys.readouterr().out
    assert "7/8  Agents" in output
    assert "it needs the openai package: pip install openai" in output.splitlines()[-1]


@pytest.mark.parametrize(
    ("path", "key", "complaint"),
    [
        ("", "sk-a-key-that-opens-nothing", "refuses the key; give one with --key"),
        ("", None, "refuses the key; give one with --key"),
        ("/elsewhere", KEY, "there is no MCP server at"),
    ],
)
async def test_a_wrong_key_or_address_is_one_line(
    server: ServeProcess, path: str, key: str | None, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        await run(server.url + path, key)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [("http://127.0.0.1:9", "nothing answers there"), ("localhost:8321", "give for example")],
)
async def test_an_address_without_a_server_is_one_line(url: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        await run(url)


def test_a_server_that_cannot_start_is_shown_with_its_own_words(temporary: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "mcp_server", "demo"],
        env=environment(temporary / "unused", LLM_URL="gguf:/no/such/model.gguf")
        | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
    )
    assert process.returncode == 2
    assert "isthmus: the demo's server did not start" in process.stderr
    assert "cannot read the model /no/such/model.gguf" in process.stderr
    assert list(temporary.iterdir()) == []


@dataclass
class Thinker:
    """An upstream that decides by itself: it calls a tool only when made to, and then writes `arguments`."""

    obeys: bool = True
    sql: str = ""
    questions: list[str] = field(default_factory=list[str])

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        model = {"id": "thinker", "object": "model", "created": 0, "owned_by": "test"}
        return JSONResponse({"object": "list", "data": [model]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        asked = any(message["role"] == "tool" for message in body["messages"])
        forced = isinstance(body.get("tool_choice"), dict)
        self.questions += [each["content"] for each in body["messages"] if each["role"] == "user"]
        delta: dict[str, Any] = {"role": "assistant", "content": "I know it without looking."}
        if forced and self.obeys and not asked:
            function = {"name": "sql_query", "arguments": f'{{"sql": "{self.sql}"}}'}
            call = {"index": 0, "id": "call_1", "type": "function", "function": function}
            delta = {"role": "assistant", "tool_calls": [call]}
        return StreamingResponse(self._stream(delta), media_type="text/event-stream")

    async def _stream(self, delta: dict[str, Any]) -> AsyncIterator[bytes]:
        head = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "thinker"}
        reason = "tool_calls" if "tool_calls" in delta else "stop"
        for part, end in ((delta, None), ({}, reason)):
            choice = {"index": 0, "delta": part, "finish_reason": end}
            yield b"data: " + JSONResponse(head | {"choices": [choice]}).body + b"\n\n"
        yield b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
async def thinking(
    anyio_backend: object, scratch: Path
) -> AsyncIterator[tuple[ServeProcess, Thinker]]:
    thinker = Thinker()
    async with serving(thinker.app()) as upstream:
        with serve(scratch / "thinking", API_KEY=KEY, LLM_URL=f"{upstream}/v1") as server:
            yield server, thinker


@pytest.mark.parametrize(
    ("obeys", "sql", "code", "said"),
    [
        (True, "select 1 as one", 0, "now tool_choice asks for it"),
        (False, "", 1, "the model answered without calling the tool"),
        (True, "select nonsense", 1, "none of the calls that the model wrote could"),
    ],
    ids=["decides", "refuses", "errs"],
)
async def test_a_model_that_decides_by_itself_is_asked_first_and_made_to_call_second(
    thinking: tuple[ServeProcess, Thinker],
    obeys: bool,
    sql: str,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server, thinker = thinking
    thinker.obeys, thinker.sql, thinker.questions = obeys, sql, []
    assert await run(server.url) == code
    output = capsys.readouterr().out
    assert said in output
    assert thinker.questions[0].startswith("What does it cost to cross?")
    assert thinker.questions[1].startswith("Which bridges in the table demo_bridges_")
    assert "completed: I know it without looking." in output
