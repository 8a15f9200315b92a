"""A process without data of its own reaches the tools over HTTP, as the caller it serves and with no more rights."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from anyio import current_time

from mcp_server.auth import passes as passes_module
from mcp_server.auth.passes import PASS_PREFIX, Pass, Passes
from mcp_server.auth.principal import OWNER, Principal
from mcp_server.bus import Bus
from mcp_server.bus_over_http import open_link
from mcp_server.errors import LimitExceeded, NotFound, Timeout, Unauthenticated, Unavailable
from mcp_server.files_over_bus import PART_BYTES, FilesOverBus
from mcp_server.secret import server_secret
from mcp_server.services.media import BUCKET, StoredFiles
from tests.doors import raw
from tests.doors.fixtures import PLUGIN, Record, make_key
from tests.doors.live import Live, open_live, open_remote_bus


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "bus-over-http", plugins=(PLUGIN,)) as live:
        yield live


@pytest.fixture
async def bus(live: Live) -> AsyncIterator[Bus]:
    async with open_remote_bus(live) as bus:
        yield bus


async def test_it_lists_what_the_bus_inside_lists(live: Live, bus: Bus) -> None:
    for principal in (OWNER, replace(OWNER, scopes=frozenset({"read"}))):
        inside = await live.runtime.bus.list_tools(principal)
        # How a call is previewed is for runs of agents, which have the bus inside.
        assert await bus.list_tools(principal) == [replace(each, preview=None) for each in inside]


async def test_a_key_given_twice_takes_effect_once(bus: Bus) -> None:
    row = {"sql": "insert into once values (1)"}
    await bus.call(OWNER, "sql_execute", {"sql": "create table once (n int)"})
    first = await bus.call(OWNER, "sql_execute", row, "run/step@1.1")
    again = await bus.call(OWNER, "sql_execute", row, "run/step@1.1")
    assert not first.is_error, first.text
    assert again.structured == first.structured
    counted = await bus.call(OWNER, "sql_query", {"sql": "select count(*) from once"})
    assert counted.structured is not None
    assert counted.structured["rows"] == [[1]]


async def test_progress_comes_through(bus: Bus, tmp_path: Path) -> None:
    told: list[float] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(done)

    record = Record(tmp_path / "record")
    arguments = record.arguments | {"seconds": 0.2, "progress": True}
    done = await bus.call(OWNER, "wait", arguments, progress=progress)
    assert not done.is_error, done.text
    assert told


async def test_a_deadline_holds_at_the_other_end(bus: Bus) -> None:
    slow = "select count(*) from generate_series(1, 100000) a, generate_series(1, 100000) b"
    late = await bus.call(OWNER, "sql_query", {"sql": slow}, deadline=current_time() + 0.3)
    assert late.is_error, late
    assert late.text.startswith(Timeout.code)


@pytest.mark.parametrize("kind", ["text/plain; charset=utf-8", "image/png"])
async def test_a_file_comes_whole_whatever_its_size(live: Live, bus: Bus, kind: str) -> None:
    # Parts end in the middle of characters of two bytes, and the last one is short.
    data = b"x" + "\N{LATIN SMALL LETTER E WITH ACUTE}".encode() * (PART_BYTES + 1_000)
    given = {"base64": base64.b64encode(data).decode(), "content_type": kind}
    metadata = {"filename": "accents.txt"}
    put = {"bucket": BUCKET, "key": f"file-{kind[:4]}", "metadata": metadata, **given}
    stored = await live.runtime.bus.call(OWNER, "object_put", put)
    assert not stored.is_error, stored.text
    files = FilesOverBus(bus)
    here = StoredFiles(live.runtime.services.objects)
    read = await files.read(OWNER, f"file-{kind[:4]}", len(data))
    assert (read.data == data, read.name) == (True, "accents.txt")
    assert read == await here.read(OWNER, f"file-{kind[:4]}", len(data))
    for reader in (files, here):
        with pytest.raises(LimitExceeded):
            await reader.read(OWNER, f"file-{kind[:4]}", len(data) - 1)
        with pytest.raises(NotFound):
            await reader.read(OWNER, "file-none", 1)


async def test_unknown_tools_and_resources_are_not_found(bus: Bus) -> None:
    with pytest.raises(NotFound):
        await bus.call(OWNER, "no_such_tool", {})
    with pytest.raises(NotFound):
        await bus.read(OWNER, "kv://default/no-such-key")


async def test_a_caller_that_is_cancelled_cancels_the_tool(bus: Bus, tmp_path: Path) -> None:
    record = Record(tmp_path / "record")
    task = asyncio.create_task(bus.call(OWNER, "wait", record.arguments))
    await record.started()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await record.cancelled()


async def test_a_pass_ends_with_the_key_behind_it(live: Live, bus: Bus) -> None:
    key = await make_key(live)
    principal = Principal(key["tenant"], key["user"], frozenset(key["scopes"]), key["id"])
    done = await bus.call(principal, "kv_list", {"prefix": ""})
    assert not done.is_error or done.text.startswith("not_found"), done.text
    await live.runtime.services.keys.revoke(key["id"])
    async with asyncio.timeout(5):
        while True:
            try:
                await bus.call(principal, "kv_list", {"prefix": ""})
            except (Unauthenticated, Unavailable) as error:
                assert "revoked" in str(error)
                break
            await asyncio.sleep(0.05)


async def test_what_nobody_here_made_is_no_pass(live: Live) -> None:
    passes = Passes(server_secret(live.runtime.settings))
    good = passes.make(Pass(OWNER))
    raw_pass = base64.urlsafe_b64decode(good.removeprefix(PASS_PREFIX) + "==")
    forged = raw_pass[:32] + raw_pass[32:].replace(b"default", b"another")
    others = [
        Passes(bytes(32)).make(Pass(OWNER)),
        PASS_PREFIX,
        f"{PASS_PREFIX}!!!!",
        PASS_PREFIX + base64.urlsafe_b64encode(forged).decode().rstrip("="),
    ]
    assert passes.open(good) == Pass(OWNER)
    for other in others:
        with pytest.raises(Unauthenticated):
            passes.open(other)


async def test_a_pass_is_for_one_moment(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = Passes(server_secret(live.runtime.settings))
    monkeypatch.setattr(passes_module, "LIFE_SECONDS", -1.0)
    with pytest.raises(Unauthenticated):
        passes.open(passes.make(Pass(OWNER)))


@pytest.mark.parametrize("path", ["/v1/models", "/sse", "/metrics", "/uploads/"])
async def test_a_pass_opens_no_other_door(live: Live, path: str) -> None:
    shown = Passes(server_secret(live.runtime.settings)).make(Pass(OWNER))
    async with raw.open_http() as http:
        answer = await raw.send(http, "GET", f"{live.url}{path}", headers=raw.bearer(shown))
    assert answer.status in ({401, 200} if path == "/metrics" else {401}), answer.body


async def test_a_server_that_is_not_there_is_told(live: Live) -> None:
    async with open_link("http://127.0.0.1:9/mcp", Passes(bytes(32))) as link:
        with pytest.raises(Unavailable, match="ISTHMUS_MCP_URL"):
            await Bus(link).call(OWNER, "kv_list", {})


async def test_a_server_with_another_secret_refuses(live: Live) -> None:
    async with open_link(f"{live.url}/mcp", Passes(bytes(32))) as link:
        with pytest.raises((Unauthenticated, Unavailable), match="SECRET_KEY"):
            await Bus(link).list_tools(OWNER)
