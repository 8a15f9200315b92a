"""One deployment of three processes: the OpenAI face without data, the servers that hold it, and a worker."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
import tomllib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from mcp_server.auth.keys import KeyService
from mcp_server.auth.passes import Passes
from mcp_server.auth.principal import OWNER
from mcp_server.bus import Bus
from mcp_server.bus_over_http import open_link
from mcp_server.secret import FILE, pass_secret
from mcp_server.settings import load_settings
from mcp_server.storage.sql.control import open_control
from tests.doors.fixtures import PLUGIN, Record
from tests.doors.live import obedient_model, serving
from tests.e2e.processes import ServeProcess, environment
from tests.e2e.topology import ROOT, Program
from tests.servers.postgresql import PostgresqlServer

# Modules that open data, and their libraries.
OF_DATA = re.compile(
    r"\b(mcp_server\.storage\.(objects\.\w+|vectors\.\w+|buckets\.\w+|sql\.(postgresql|outside|embedded|unit))"
    r"|mcp_server\.(runtime|engines|server)|minio|pymilvus|pglast)\s*$"
)


@dataclass(frozen=True)
class Split:
    """What runs, and what a test asks it with."""

    folder: Path
    facade: ServeProcess
    bus: Bus
    client: AsyncOpenAI
    keys: KeyService
    postgres: PostgresqlServer
    ports: dict[str, int]


@pytest.fixture(scope="module")
async def split(anyio_backend: object, scratch: Path) -> AsyncIterator[Split]:
    folder = scratch / "split"
    folder.mkdir(mode=0o755)
    async with open_split(folder) as split:
        yield split


@asynccontextmanager
async def open_split(folder: Path) -> AsyncGenerator[Split]:
    secrets = folder / "secrets"
    making = await asyncio.create_subprocess_exec(
        "sh", str(ROOT / "deploy" / "secrets.sh"), str(secrets), stdout=asyncio.subprocess.DEVNULL
    )
    assert await making.wait() == 0
    postgres = PostgresqlServer(folder / "postgres", secrets)
    async with AsyncExitStack() as stack:
        stack.callback(postgres.kill)
        await postgres.set_up()
        model = await stack.enter_async_context(serving(obedient_model()))
        for name in ("isthmus.toml", "facade.toml"):
            _move_here(secrets / name, f"127.0.0.1:{postgres.port}")
        processes = stack.enter_context(ExitStack())
        more = {"LLM_URL": f"{model}/v1"}
        mcp = ServeProcess(
            folder / "data", 0, *_of(secrets, "isthmus.toml", "mcp"), PLUGINS=str(PLUGIN), **more
        )
        processes.callback(mcp.stop)
        mcp_url = await asyncio.to_thread(mcp.wait_ready)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # it tells each module that it imports
            arguments = _of(secrets, "facade.toml", "openai")
            facade = ServeProcess(
                folder / "facade", 0, *arguments, MCP_URL=f"{mcp_url}/mcp", **more
            )
        processes.callback(facade.stop)
        worker = _worker(folder, secrets, **more)
        processes.callback(worker.kill)
        url, _ = await asyncio.gather(asyncio.to_thread(facade.wait_ready), worker.start())
        settings = load_settings(secrets / "facade.toml")
        link = await stack.enter_async_context(
            open_link(f"{mcp_url}/mcp", Passes(pass_secret(settings)))
        )
        control = await stack.enter_async_context(open_control(str(settings.database_url)))
        client = await stack.enter_async_context(
            AsyncOpenAI(base_url=f"{url}/v1", api_key=str(settings.api_key), max_retries=0)
        )
        ports = {"postgres": postgres.port, "mcp": _port(mcp_url), "model": _port(model)}
        keys = KeyService(control, settings.api_key)
        yield Split(folder, facade, Bus(link), client, keys, postgres, ports)


def _of(secrets: Path, configuration: str, role: str) -> list[str]:
    return ["--role", role, "--config", str(secrets / configuration)]


def _worker(folder: Path, secrets: Path, **settings: str) -> Program:
    command = [sys.executable, "-m", "mcp_server", "worker"]
    command += ["--config", str(secrets / "isthmus.toml")]
    log = folder / "worker.log"
    return Program(command, environment(folder / "data", **settings), log, "is ready")


def _move_here(path: Path, postgres: str) -> None:
    """Leave only what this test runs: PostgreSQL; the rest is embedded."""
    given = tomllib.loads(path.read_text())
    kept = ("api_key", "secret_key", "pass_key", "database_url", "data_url")
    lines = [f"{name} = {json.dumps(given[name])}" for name in kept if name in given]
    path.write_text("\n".join(lines).replace("postgres:5432", postgres))


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def asking(tool: str, **arguments: Any) -> str:
    """What the obedient model is told."""
    return json.dumps({"tool": tool, "arguments": arguments})


async def chat(client: AsyncOpenAI, tool: str, **arguments: Any) -> Any:
    """Have a chat call one of our tools, and return the value that it answered."""
    return json.loads(await told(client, tool, **arguments))


async def told(client: AsyncOpenAI, tool: str, **arguments: Any) -> str:
    """Have a chat call one of our tools, and return its words."""
    mcp: Any = {"type": "mcp", "server_label": "isthmus", "allowed_tools": [tool]}
    answer = await client.chat.completions.create(
        model="obedient",
        messages=[{"role": "user", "content": asking(tool, **arguments)}],
        tools=[mcp],
    )
    return answer.choices[0].message.content or ""


async def test_the_facade_knows_no_secret_from_which_passwords_come(split: Split) -> None:
    given = tomllib.loads((split.folder / "secrets" / "facade.toml").read_text())
    assert "secret_key" not in given
    assert not (split.folder / "facade" / FILE).exists()
    said = await split.bus.call(OWNER, "sql_query", {"sql": "select 1"})
    assert not said.is_error, said.text  # such a password is in use behind it


async def test_what_a_chat_writes_the_server_has_at_once_and_the_other_way_round(
    split: Split,
) -> None:
    await chat(split.client, "kv_set", key="from-a-chat", value="here")
    (read,) = await split.bus.read(OWNER, "kv://default/from-a-chat")
    assert "here" in (read.text or "")
    await split.bus.call(OWNER, "kv_set", {"key": "from-mcp", "value": "there"})
    assert (await chat(split.client, "kv_get", key="from-mcp"))["value"] == "there"


async def test_a_response_searches_files_that_the_server_holds(split: Split) -> None:
    said = {"store": "animals", "text": "The fox jumps over the dog."}
    added = await split.bus.call(OWNER, "vector_add", said)
    assert not added.is_error, added.text
    answer = await split.client.responses.create(
        model="obedient",
        input=asking("file_search", query="Who jumps?"),
        tools=[{"type": "file_search", "vector_store_ids": ["animals"]}],
        include=["file_search_call.results"],
    )
    (search,) = [item for item in answer.output if item.type == "file_search_call"]
    assert search.results
    assert "fox" in (search.results[0].text or "")


async def test_a_response_in_the_background_is_the_workers(split: Split) -> None:
    begun = await split.client.responses.create(
        model="obedient",
        input=asking("kv_list", prefix=""),
        background=True,
        tools=[{"type": "mcp", "server_label": "isthmus", "require_approval": "never"}],  # pyright: ignore[reportArgumentType]
    )
    async with asyncio.timeout(30):
        while True:
            answer = await split.client.responses.retrieve(begun.id)
            if answer.status not in {"queued", "in_progress"}:
                break
            await asyncio.sleep(0.05)
    assert answer.status == "completed", answer.error
    assert [item.type for item in answer.output if item.type == "mcp_call"] == ["mcp_call"]


async def test_a_revoked_key_is_dead_at_the_facade_and_behind_it(split: Split) -> None:
    key = await split.keys.create("short-lived")
    client = split.client.with_options(api_key=key["key"])
    await chat(client, "kv_set", key="alive", value="yes")
    await split.keys.revoke(key["id"])
    revoked = time.monotonic()
    with pytest.raises(openai.AuthenticationError):
        await _until_refused(client, revoked + 30)
    assert time.monotonic() < revoked + 5  # a second, and what a busy machine takes for one chat


async def _until_refused(client: AsyncOpenAI, deadline: float) -> None:
    while time.monotonic() < deadline:
        # Whoever learns of it first: the server behind refuses the tool, the facade the request.
        said = await told(client, "kv_get", key="alive")
        assert "yes" in said or "revoked" in said


async def test_a_client_that_leaves_ends_the_tool_at_the_other_end(
    split: Split, tmp_path: Path
) -> None:
    record = Record(tmp_path / "record")
    body = {
        "model": "obedient",
        "stream": True,
        "messages": [{"role": "user", "content": asking("wait", **record.arguments)}],
        "tools": [{"type": "mcp", "server_label": "isthmus", "allowed_tools": ["wait"]}],
    }
    headers = {"Authorization": f"Bearer {split.client.api_key}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        url = f"{split.facade.url}/v1/chat/completions"

        async def ask() -> None:
            async with http.post(url, json=body) as answer:
                await answer.read()

        asked = asyncio.create_task(ask())
        await record.started(30)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    await record.cancelled(30)


async def test_data_has_its_routes_at_the_server_and_not_at_the_facade(split: Split) -> None:
    headers = {"Authorization": f"Bearer {split.client.api_key}"}
    found: dict[str, tuple[int, int]] = {}
    async with aiohttp.ClientSession(headers=headers) as http:
        for path in ("/v1/files", "/v1/models", "/mcp"):
            at: list[int] = []
            for port in (_port(split.facade.url), split.ports["mcp"]):
                async with http.get(f"http://127.0.0.1:{port}{path}") as answer:
                    at.append(answer.status)
            found[path] = (at[0], at[1])
        async with http.get(f"{split.facade.url}/readyz") as answer:
            ready = await answer.json()
    assert found["/v1/files"] == (404, 200)
    assert found["/v1/models"] == (200, 404)
    assert found["/mcp"][0] == 404
    assert found["/mcp"][1] != 404
    assert set(ready["engines"]) == {"control", "cache", "llm", "mcp"}
    assert all(engine["ok"] for engine in ready["engines"].values())


async def test_the_facade_opens_no_data(split: Split) -> None:
    """Last of the file: by now it has done everything that the tests above ask of it."""
    await chat(split.client, "kv_set", key="once-more", value="x")
    await chat(split.client, "sql_query", sql="select 1")
    pid = split.facade.process.pid
    sockets = _sockets(pid)
    ours = {local for local, _ in sockets}
    listening = _port(split.facade.url)
    reached = {remote for local, remote in sockets if remote and local != listening}
    assert reached <= set(split.ports.values())
    superuser = await split.postgres._connect("postgres")
    query = "select datname, client_port from pg_stat_activity where client_port > 0"
    open_to = [(row["datname"], row["client_port"]) for row in await superuser.fetch(query)]
    await superuser.close()
    assert {database for database, port in open_to if port in ours} == {"isthmus"}
    assert "isthmus_data" in {database for database, _ in open_to}, "the server has it open"
    imported = [line.rpartition("|")[2].strip() for line in split.facade.errors if "|" in line]
    assert "mcp_server.facade_runtime" in imported
    assert [module for module in imported if OF_DATA.search(module)] == []


def _sockets(pid: int) -> list[tuple[int, int]]:
    """Return the local and the remote port of each TCP connection of a process."""
    links = [_target(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return [
        (int(row[1].rpartition(":")[2], 16), int(row[2].rpartition(":")[2], 16))
        for row in rows
        if row[9] in inodes
    ]


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""
