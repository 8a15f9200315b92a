"""A client that goes away, or says so, cancels its work at every door."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from mcp import Client
from mcp.client.stdio import stdio_client
from sqlalchemy import text

from mcp_server.auth.principal import OWNER
from tests.doors import raw
from tests.doors.fixtures import PLUGIN, Record, until
from tests.doors.live import Live, open_live, stdio_parameters

# Runs for minutes, and is cancelled by nothing but a request to the database to do so.
LONG_SQL = "select count(*) from generate_series(1, 100000) a, generate_series(1, 100000) b"


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "cancel", plugins=(PLUGIN,), sql_timeout_seconds=300) as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")


async def leave(task: asyncio.Task[Any]) -> None:
    """Go away in the middle: the connection is closed."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def long_queries(live: Live) -> int:
    query = "select count(*) from pg_stat_activity where state = 'active' and query like '%generate_series(1, 1000%'"
    async with live.runtime.engines.control.connect() as tx:
        # The asking query must not find itself.
        return await tx.scalar(text(query + " and pid <> pg_backend_pid()")) or 0


async def until_queries(live: Live, wanted: Callable[[int], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not wanted(await long_queries(live)):
            await asyncio.sleep(0.02)


# --- /mcp, the modern era ----------------------------------------------------------------------


@pytest.mark.parametrize("progress", [False, True], ids=["JSON", "stream"])
async def test_closing_the_connection_cancels_a_call_of_the_modern_era(
    live: Live, http: aiohttp.ClientSession, record: Record, progress: bool
) -> None:
    """The answer is JSON as long as nothing was streamed: the client just waits for it."""
    params = {
        "name": "wait",
        "arguments": {**record.arguments, "progress": progress},
        "_meta": {**raw.META, "progressToken": 1},
    }
    calling = asyncio.create_task(raw.modern(http, live.url, live.key, "tools/call", params))
    await record.started()
    await leave(calling)
    await record.cancelled()


async def test_a_client_that_takes_only_json_is_told_that_it_must_take_streams(
    live: Live, http: aiohttp.ClientSession, record: Record
) -> None:
    """JSON alone is no mode of its own: so no call can run that nothing could cancel."""
    params = {"name": "wait", "arguments": record.arguments}
    headers = raw.modern_headers(live.key, "tools/call", params)
    answer = await raw.send(
        http,
        "POST",
        f"{live.url}/mcp",
        json=raw.modern_request("tools/call", params),
        headers={**headers, "Accept": "application/json"},
    )
    assert answer.status == 406
    assert record.words == []


async def test_a_posted_cancellation_of_the_modern_era_cancels_nobody_elses_work(
    live: Live, http: aiohttp.ClientSession, record: Record
) -> None:
    """Request ids are the clients' own, so one could name another's; closing is the way there."""
    params = {"name": "wait", "arguments": {**record.arguments, "seconds": 1}}
    calling = asyncio.create_task(raw.modern(http, live.url, live.key, "tools/call", params))
    await record.started()
    cancel = {
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": {"requestId": 1, "_meta": raw.META},
    }
    headers = raw.modern_headers(live.key, "notifications/cancelled")
    posted = await raw.send(http, "POST", f"{live.url}/mcp", json=cancel, headers=headers)
    assert posted.status == 202
    assert raw.text_of((await calling).result) == "done"


# --- /mcp, the handshake era -------------------------------------------------------------------


def cancellation(request_id: Any) -> raw.Message:
    params = {"requestId": request_id, "reason": "the user changed their mind"}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}


@pytest.mark.parametrize("request_id", [5, "five"])
async def test_a_cancellation_cancels_the_call_it_names(
    live: Live, http: aiohttp.ClientSession, record: Record, tmp_path: Path, request_id: Any
) -> None:
    session = await raw.Handshake(http, live.url, live.key).open()
    other = Record(tmp_path / "other")
    call = {"name": "wait", "arguments": record.arguments}
    kept = {"name": "wait", "arguments": {**other.arguments, "seconds": 1}}
    calling = asyncio.create_task(session.request("tools/call", call, request_id))
    keeping = asyncio.create_task(session.request("tools/call", kept, 6))
    await record.started()
    await other.started()
    # Another session's request of the same id is none of its business.
    foreign = await raw.Handshake(http, live.url, live.key).open()
    assert (await foreign.post(cancellation(request_id))).status == 202
    assert (await foreign.request("ping")).result == {}
    assert record.words == ["started"]
    assert (await session.post(cancellation(request_id))).status == 202
    await record.cancelled()
    assert (await calling).error["code"] == -32800
    assert raw.text_of((await keeping).result) == "done"


@pytest.mark.parametrize("progress", [False, True], ids=["silent", "streaming"])
async def test_closing_the_connection_cancels_a_call_of_a_session(
    live: Live, http: aiohttp.ClientSession, record: Record, progress: bool
) -> None:
    session = await raw.Handshake(http, live.url, live.key).open()
    arguments = {**record.arguments, "progress": progress}
    calling = asyncio.create_task(session.call("wait", arguments))
    await record.started()
    await leave(calling)
    await record.cancelled()
    assert (await session.request("ping")).result == {}


async def test_ending_the_session_cancels_its_calls(
    live: Live, http: aiohttp.ClientSession, record: Record
) -> None:
    session = await raw.Handshake(http, live.url, live.key).open()
    calling = asyncio.create_task(session.call("wait", record.arguments))
    await record.started()
    await raw.send(http, "DELETE", f"{live.url}/mcp", headers=session.headers)
    await record.cancelled()
    await leave(calling)


# --- /sse --------------------------------------------------------------------------------------


async def test_closing_the_stream_cancels_the_calls_of_a_connection(
    live: Live, http: aiohttp.ClientSession, record: Record
) -> None:
    async with raw.open_sse(http, live.url, live.key) as session:
        calling = asyncio.create_task(session.call("wait", record.arguments))
        await record.started()
    await record.cancelled()
    await leave(calling)


async def test_a_cancellation_cancels_a_call_of_a_connection(
    live: Live, http: aiohttp.ClientSession, record: Record
) -> None:
    async with raw.open_sse(http, live.url, live.key) as session:
        call = {"name": "wait", "arguments": record.arguments}
        calling = asyncio.create_task(session.request("tools/call", call, 5))
        await record.started()
        assert (await session.post(cancellation(5))).status == 202
        await record.cancelled()
        assert (await session.request("ping"))["result"] == {}
        await leave(calling)


# --- stdio -------------------------------------------------------------------------------------


async def test_leaving_cancels_the_calls_over_stdio(live: Live, record: Record) -> None:
    parameters = stdio_parameters(live)
    assert parameters.env is not None
    parameters.env["ISTHMUS_PLUGINS"] = str(PLUGIN)
    async with Client(stdio_client(parameters)) as client:
        calling = asyncio.create_task(client.call_tool("wait", record.arguments))
        await record.started(20)
    await record.cancelled()
    await leave(calling)


async def test_the_end_of_stdin_alone_cancels_the_calls_and_ends_the_process(
    live: Live, record: Record
) -> None:
    parameters = stdio_parameters(live)
    process = await asyncio.create_subprocess_exec(
        parameters.command,
        *parameters.args,
        env={**(parameters.env or {}), "ISTHMUS_PLUGINS": str(PLUGIN)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdin is not None
        calls = {"wait": record.arguments, "sql_query": {"sql": LONG_SQL}}
        messages = [raw.initialize(), raw.INITIALIZED]
        for number, (tool, arguments) in enumerate(calls.items()):
            params = {"name": tool, "arguments": arguments}
            messages.append(raw.request("tools/call", params, number))
        process.stdin.write("".join(f"{json.dumps(item)}\n" for item in messages).encode())
        await record.started(20)
        await until_queries(live, lambda count: count > 0)
        process.stdin.close()
        await record.cancelled()
        await until_queries(live, lambda count: count == 0)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# --- chat --------------------------------------------------------------------------------------


def chat(tool: str, arguments: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    return {
        "model": "default",
        "messages": [
            {"role": "user", "content": json.dumps({"tool": tool, "arguments": arguments})}
        ],
        "tools": [{"type": "mcp", "server_label": "isthmus", "allowed_tools": [tool]}],
        "stream": stream,
    }


@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
async def test_leaving_a_chat_cancels_the_tool_that_it_runs(
    live: Live, http: aiohttp.ClientSession, record: Record, stream: bool
) -> None:
    body = chat("wait", record.arguments, stream=stream)
    url = f"{live.url}/v1/chat/completions"
    calling = asyncio.create_task(raw.send(http, "POST", url, json=body, headers=live.headers))
    await record.started()
    await leave(calling)
    await record.cancelled()


@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
async def test_leaving_a_chat_cancels_the_run_of_its_agent(
    live: Live, http: aiohttp.ClientSession, record: Record, stream: bool
) -> None:
    agent = {"name": "waiter", "instructions": "Use tools.", "tools": ["wait"]}
    await raw.call(http, live.url, live.key, "agent_save", agent)
    body = {**chat("wait", record.arguments, stream=stream), "model": "agent/waiter"}
    del body["tools"]
    url = f"{live.url}/v1/chat/completions"
    calling = asyncio.create_task(raw.send(http, "POST", url, json=body, headers=live.headers))
    await record.started()
    await leave(calling)
    await record.cancelled(5)


# --- in process --------------------------------------------------------------------------------


async def test_cancelling_a_call_over_the_bus_cancels_the_tool(live: Live, record: Record) -> None:
    calling = asyncio.create_task(live.runtime.bus.call(OWNER, "wait", record.arguments))
    await record.started()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert record.words == ["started", "cancelled"]


async def test_a_deadline_cancels_the_tool_too(live: Live, record: Record) -> None:
    deadline = asyncio.get_running_loop().time() + 0.5
    result = await live.runtime.bus.call(OWNER, "wait", record.arguments, deadline=deadline)
    assert result.is_error
    assert result.text.startswith("timeout: ")
    assert record.words == ["started", "cancelled"]


# --- what runs in the database -----------------------------------------------------------------


@pytest.mark.parametrize("door", ["modern", "handshake", "sse", "chat", "bus"])
async def test_leaving_ends_the_statement_in_the_database(
    live: Live, http: aiohttp.ClientSession, door: str
) -> None:
    arguments = {"sql": LONG_SQL}
    match door:
        case "modern":
            work: Any = raw.call(http, live.url, live.key, "sql_query", arguments)
        case "handshake":
            session = await raw.Handshake(http, live.url, live.key).open()
            work = session.call("sql_query", arguments)
        case "sse":
            work = over_sse(http, live, arguments)
        case "chat":
            url = f"{live.url}/v1/chat/completions"
            body = chat("sql_query", arguments, stream=False)
            work = raw.send(http, "POST", url, json=body, headers=live.headers)
        case _:
            work = live.runtime.bus.call(OWNER, "sql_query", arguments)
    calling = asyncio.create_task(work)
    await until_queries(live, lambda count: count > 0)
    await leave(calling)
    await until_queries(live, lambda count: count == 0)
    # The connection that ran it serves the next statement, or a new one does.
    answer = await raw.call(http, live.url, live.key, "sql_query", {"sql": "select 1 as one"})
    assert answer.result["structuredContent"]["rows"] == [[1]]


async def over_sse(http: aiohttp.ClientSession, live: Live, arguments: Any) -> raw.Message:
    async with raw.open_sse(http, live.url, live.key) as session:
        return await session.call("sql_query", arguments)


async def test_fifty_clients_that_leave_at_once_leave_nothing_behind(
    live: Live, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    records = [Record(tmp_path / str(number)) for number in range(50)]
    before = len(asyncio.all_tasks())
    calls = [
        asyncio.create_task(raw.call(http, live.url, live.key, "wait", record.arguments))
        for record in records
    ]
    for record in records:
        await record.started(20)
    await asyncio.gather(*(leave(calling) for calling in calls))
    for record in records:
        await record.cancelled()
    await until(lambda: len(asyncio.all_tasks()) <= before + 5, 5, "the tasks have ended")
