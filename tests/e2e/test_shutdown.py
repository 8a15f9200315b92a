"""SIGTERM ends the server soon and well, whatever it is doing."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.doors import raw
from tests.doors.fixtures import PLUGIN, Record, until
from tests.e2e.processes import ServeProcess, postmaster_pid

MOST_SECONDS = 20.0  # what is asked takes minutes
# Where nothing has to be waited for: less than the grace that requests in progress get.
SOON_SECONDS = 2.9
KEY = "sk-of-the-operator-itself"
CHAT = {"model": "default", "stream": True, "messages": [{"role": "user", "content": "one two"}]}


@pytest.fixture
async def server(data_dir: Path, tmp_path: Path) -> AsyncIterator[ServeProcess]:
    script = tmp_path / "slow.yaml"
    script.write_text("turns:\n- text: never\n  delay_ms: 600000\n", encoding="utf-8")
    server = ServeProcess(
        data_dir, 0, "--plugins", str(PLUGIN), API_KEY=KEY, LLM_URL=f"scripted:{script}"
    )
    await asyncio.to_thread(server.wait_ready)
    yield server
    await asyncio.to_thread(server.stop)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


def works(pid: int) -> bool:
    """Whether a process runs: one that ended may wait for its parent to ask for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def stop(server: ServeProcess, data_dir: Path, number: int = signal.SIGTERM) -> float:
    """Send the signal, check how the server ends, and return after how many seconds."""
    postmaster = postmaster_pid(data_dir)
    assert postmaster is not None
    assert works(postmaster)
    begun = time.monotonic()
    server.process.send_signal(number)
    code = await asyncio.to_thread(server.process.wait, 30)
    took = time.monotonic() - begun
    assert code == 0
    await until(lambda: not works(postmaster), 10, "no postgres process is left")
    said = "".join(server.errors)
    assert "Traceback" not in said, said
    assert " ERROR " not in said, said
    return took


async def open_streams(
    stack: AsyncExitStack, http: aiohttp.ClientSession, url: str
) -> dict[str, raw.EventStream]:
    """Open one stream of each kind that has no end of its own."""
    sse = await stack.enter_async_context(http.get(f"{url}/sse", headers=raw.bearer(KEY)))
    session = await raw.Handshake(http, url, KEY).open()
    wanted = {"notifications": {"resourceSubscriptions": ["kv://default/x"]}}
    listen = await stack.enter_async_context(
        http.post(
            f"{url}/mcp",
            json=raw.modern_request("subscriptions/listen", wanted),
            headers=raw.modern_headers(KEY, "subscriptions/listen"),
        )
    )
    streams = {
        "sse": raw.EventStream(sse),
        "session": await stack.enter_async_context(session.listening()),
        "listen": raw.EventStream(listen),
    }
    await streams["sse"].next()
    await streams["listen"].next()
    return streams


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_streams_without_an_end_hold_nothing_up(
    server: ServeProcess, data_dir: Path, http: aiohttp.ClientSession, number: int
) -> None:
    async with AsyncExitStack() as stack:
        streams = await open_streams(stack, http, server.url)
        took = await stop(server, data_dir, number)
        assert took < SOON_SECONDS
        # The listener of the modern era is told the end of its subscription.
        last = await streams["listen"].message()
        assert "result" in last
        for stream in streams.values():
            await stream.end(1)


async def test_everything_at_once(
    server: ServeProcess, data_dir: Path, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    record = Record(tmp_path / "record")
    chat_url = f"{server.url}/v1/chat/completions"
    async with AsyncExitStack() as stack:
        await open_streams(stack, http, server.url)
        session = await raw.Handshake(http, server.url, KEY).open()
        working = [
            asyncio.create_task(work)
            for work in (
                raw.send(http, "POST", chat_url, json=CHAT, headers=raw.bearer(KEY)),
                raw.call(http, server.url, KEY, "wait", record.arguments),
                session.call("wait", {"record": str(tmp_path / "other")}),
            )
        ]
        await record.started()
        await until((tmp_path / "other").exists)
        took = await stop(server, data_dir)
        assert took < MOST_SECONDS
        chat, call, _ = await asyncio.gather(*working, return_exceptions=True)
    for answer in (chat, call):
        assert isinstance(answer, raw.Reply), answer
        assert answer.status == 503
        assert "stopping" in answer.body
    assert record.words == ["started", "cancelled"]
    assert (tmp_path / "other").read_text().split() == ["started", "cancelled"]


@pytest.mark.parametrize("door", ["modern", "session"])
async def test_a_call_that_is_soon_done_is_finished_first(
    server: ServeProcess, data_dir: Path, http: aiohttp.ClientSession, tmp_path: Path, door: str
) -> None:
    record = Record(tmp_path / "record")
    arguments: dict[str, Any] = {**record.arguments, "seconds": 1.5, "progress": True}
    if door == "session":
        session = await raw.Handshake(http, server.url, KEY).open()
        work = session.call("wait", arguments)
    else:
        work = raw.call(http, server.url, KEY, "wait", arguments)
    calling = asyncio.create_task(work)
    await record.started()
    await stop(server, data_dir)
    assert raw.text_of((await calling).result) == "done"
    assert record.words == ["started", "done"]


async def test_an_idle_server_ends_at_once(
    server: ServeProcess, data_dir: Path, http: aiohttp.ClientSession
) -> None:
    # A connection is kept alive, which must not count as work.
    await raw.call(http, server.url, KEY, "kv_list", {})
    assert await stop(server, data_dir) < SOON_SECONDS


async def test_what_was_written_last_is_there_after_the_next_start(
    server: ServeProcess, data_dir: Path, http: aiohttp.ClientSession
) -> None:
    written = await raw.call(http, server.url, KEY, "kv_set", {"key": "last", "value": "word"})
    assert not written.result["isError"]
    await stop(server, data_dir)
    again = ServeProcess(data_dir, 0, API_KEY=KEY)
    await asyncio.to_thread(again.wait_ready)
    read = await raw.call(http, again.url, KEY, "kv_get", {"key": "last"})
    assert read.result["structuredContent"]["value"] == "word"
    try:
        assert await stop(again, data_dir) < SOON_SECONDS
    finally:
        await asyncio.to_thread(again.stop)
