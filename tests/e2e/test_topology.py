"""The distributed stack: every door through nginx, and nothing acknowledged is lost whatever is killed."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from openai import AsyncOpenAI
from tusclient.client import TusClient

from tests.e2e.processes import LONG
from tests.e2e.topology import Program, Topology, running
from tests.e2e.topology_load import Load, calling, lost, prepare, writing

# How often each component is killed, and how many writes of each kind must follow.
ROUNDS, WRITES, WRITERS = (5, 20, 3) if LONG else (1, 2, 1)
# A killed server starts within seconds; how long anybody may wait for writes to go on.
RECOVERY_SECONDS = 120.0
MOST_OPEN_FILES = 120


@pytest.fixture(scope="module")
async def topology(anyio_backend: object, scratch: Path) -> AsyncIterator[Topology]:
    async with running(scratch / f"topology-{uuid.uuid4().hex[:8]}") as topology:
        yield topology


async def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


async def through_every_store(client: Client, name: str) -> None:
    """Write and read what each engine holds; `name` keeps clients apart."""
    await ask(client, "sql_execute", sql=f"create table {name} (n int)")
    await ask(client, "sql_execute", sql=f"insert into {name} values ($1)", params=[7])
    assert (await ask(client, "sql_query", sql=f"select n from {name}"))["rows"] == [[7]]
    for namespace in (name, f"cache/{name}"):
        await ask(client, "kv_set", namespace=namespace, key="k", value={"n": [1, "地峡"]})
        found = await ask(client, "kv_get", namespace=namespace, key="k")
        assert found["value"] == {"n": [1, "地峡"]}
    await ask(client, "object_put", bucket=name, key="o", text="some words")
    assert (await ask(client, "object_get", bucket=name, key="o"))["text"] == "some words"
    await ask(client, "vector_add", store=name, document="d", text="The canal was dug by hand.")
    hits = (await ask(client, "vector_search", store=name, query="Who dug the canal?"))["results"]
    assert hits[0]["document"] == "d"
    await ask(client, "agent_save", name=name, instructions="Repeat.")
    run = await ask(client, "agent_run", agent=name, input="hello there", wait_seconds=30)
    assert (run["status"], run["output"]) == ("completed", "hello there")


@pytest.mark.parametrize("door", ["http", "http-legacy", "sse"])
async def test_mcp_reaches_every_store(topology: Topology, door: str) -> None:
    url, headers = topology.url, topology.headers
    async with httpx2.AsyncClient(headers=headers, timeout=60, verify=False) as http:
        target = (
            sse_client(f"{url}/sse", headers=headers)
            if door == "sse"
            else streamable_http_client(f"{url}/mcp", http_client=http)
        )
        async with Client(target, mode="auto" if door == "http" else "legacy") as client:
            await through_every_store(client, door.replace("-", "_"))


async def test_sessions_of_the_handshake_era_hold_over_two_servers(topology: Topology) -> None:
    async def one(number: int) -> None:
        async with httpx2.AsyncClient(headers=topology.headers, timeout=60, verify=False) as http:
            target = streamable_http_client(f"{topology.url}/mcp", http_client=http)
            async with Client(target, mode="legacy") as client:
                for _ in range(5):
                    await ask(client, "kv_set", key=f"session-{number}", value=number)

    await asyncio.gather(*(one(number) for number in range(6)))


async def test_the_openai_sdk_chats_with_tools_streams_and_embeds(topology: Topology) -> None:
    async with AsyncOpenAI(base_url=f"{topology.url}/v1", api_key=topology.key) as client:
        tool: Any = {"type": "mcp", "server_label": "isthmus", "allowed_tools": ["kv_set"]}
        messages: Any = [{"role": "user", "content": "the-key"}]
        answer = await client.chat.completions.create(
            model="default", messages=messages, tools=[tool]
        )
        assert "the-key" in (answer.choices[0].message.content or "")
        words = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(
                model="default",
                messages=[{"role": "user", "content": "one two three"}],
                stream=True,
            )
            if chunk.choices
        ]
        assert "".join(words) == "one two three"
        assert len([word for word in words if word]) > 1
        made = await client.embeddings.create(model="default", input="地峡")
        assert len(made.data[0].embedding) == 512


async def test_a_link_leads_to_the_bytes_in_the_blob_store_through_nginx(
    topology: Topology,
) -> None:
    async with calling(topology.url, topology.headers) as caller:
        await caller.tool("object_put", {"bucket": "linked", "key": "o", "text": "by link"})
        link = await caller.tool("object_link", {"bucket": "linked", "key": "o"})
    assert link["url"].startswith(f"{topology.url}/links/")
    # The ticket is all that a reader needs.
    async with aiohttp.ClientSession() as http:
        async with http.get(link["url"], allow_redirects=False) as answer:
            assert answer.headers["Location"].startswith(f"{topology.url}/isthmus-objects/")
        async with http.get(link["url"]) as answer:
            assert (answer.status, await answer.text()) == (200, "by link")
            assert answer.history


async def test_an_upload_goes_on_wherever_its_parts_arrive(topology: Topology) -> None:
    body = random.Random(1).randbytes(36 * 1024 * 1024)  # more than any other request may have

    def upload(key: str, chunk: int) -> None:
        client = TusClient(f"{topology.url}/uploads/", headers=topology.headers)
        metadata = {"bucket": "uploaded", "key": key}
        client.uploader(file_stream=io.BytesIO(body), chunk_size=chunk, metadata=metadata).upload()

    async with calling(topology.url, topology.headers) as caller:
        for key, chunk in (("parts", 5_000_000), ("whole", len(body))):
            await asyncio.to_thread(upload, key, chunk)
            stat = await caller.tool("object_stat", {"bucket": "uploaded", "key": key})
            assert stat["sha256"] == hashlib.sha256(body).hexdigest(), key


async def test_nobody_gets_in_without_a_key_or_under_a_foreign_name(topology: Topology) -> None:
    async with aiohttp.ClientSession() as http:
        for path in ("/v1/models", "/mcp", "/sse"):
            async with http.get(f"{topology.url}{path}") as answer:
                assert answer.status == 401, path
        async with http.get(f"{topology.url}/readyz", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 421
        async with http.get(f"{topology.url}/readyz") as answer:
            assert answer.status == 200, await answer.text()
            assert all(engine["ok"] for engine in (await answer.json())["engines"].values())


def pids(topology: Topology) -> dict[str, int | None]:
    """The processes that nobody may have to restart for another's sake."""
    return {
        name: component.process.pid if component.process else None
        for name, component in topology.components.items()
        if isinstance(component, Program)
    }


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.timeout(3600 if LONG else 600)
async def test_any_one_may_be_killed_and_nothing_acknowledged_is_lost(
    topology: Topology,
) -> None:
    async with calling(topology.url, topology.headers) as caller:
        await prepare(caller)
        load = Load(caller)
        slowest: dict[str, float] = {}
        async with writing(load, WRITERS):
            await load.until_each_wrote(WRITES, RECOVERY_SECONDS)
            for name in [*topology.components] * ROUNDS:
                before = pids(topology)
                topology.components[name].kill()
                await asyncio.sleep(0.5)  # an orchestrator notices, and starts another one
                await topology.components[name].start()
                took = await load.until_each_wrote(WRITES, RECOVERY_SECONDS)
                slowest[name] = max(slowest.get(name, 0.0), *took.values())
                after = pids(topology)
                assert {other for other in after if after[other] != before[other]} <= {name}
        print(f"\nacknowledged: {load.counts()}")
        print("writes of every kind again after:", {n: f"{s:.1f} s" for n, s in slowest.items()})
        held = {name: open_files(pid) for name, pid in pids(topology).items() if pid}
        print("open files:", held)
        print("refused meanwhile:", *(f"\n  {n} x {what}" for what, n in load.refused.items()))
        assert await lost(load, RECOVERY_SECONDS) == {}
        assert load.errors == []
        # Connections that broke are let go: as many stay as the pools hold, however often it was.
        assert max(held.values()) < MOST_OPEN_FILES


@pytest.mark.timeout(300)
async def test_servers_are_replaced_one_by_one_without_a_refusal(topology: Topology) -> None:
    async with calling(topology.url, topology.headers) as caller:
        load = Load(caller, kinds=("kv", "sql", "object"))
        async with writing(load):
            for name in ("mcp", "mcp-2", "facade"):
                await load.until_each_wrote(3, RECOVERY_SECONDS)
                assert await topology.program(name).stop() == 0
                await load.until_each_wrote(3, RECOVERY_SECONDS)
                await topology.components[name].start()
        assert load.errors == []
        assert load.refused == {}


async def test_a_server_before_its_database_says_so_and_starts_when_that_is_there(
    topology: Topology,
) -> None:
    server = topology.program("mcp")
    server.kill()
    topology.postgres.kill()
    begun = server.log.stat().st_size
    server.launch()
    assert server.process is not None
    assert await asyncio.to_thread(server.process.wait, 60) == 2
    (line,) = server.printed(begun).splitlines()
    assert line.startswith("isthmus: ISTHMUS_DATABASE_URL: the control database does not answer")
    await topology.postgres.start()
    await server.start()
    async with calling(topology.url, topology.headers) as caller:
        await caller.tool("kv_set", {"key": "after", "value": 1})


async def test_servers_and_workers_end_well_when_they_are_told_to(topology: Topology) -> None:
    for name in ("facade", "mcp", "mcp-2", "worker-1", "worker-2"):
        assert await topology.program(name).stop() == 0, topology.program(name).printed()[-2000:]
        assert defects(topology.program(name)) == [], name
    # Whatever lasts is in the engines: a container of theirs may vanish.
    assert not topology.data_dir.exists()


def defects(program: Program) -> list[str]:
    """What it logged as an error of ours: outages are none."""
    lines = (line for line in program.printed().splitlines() if line.startswith("{"))
    told = (json.loads(line) for line in lines)
    return [
        f"{one['message']} {one.get('traceback', '')}"
        for one in told
        if one["level"] == "error" and one["logger"].startswith(("mcp_server", "openai_facade"))
    ]
