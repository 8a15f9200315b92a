"""Sessions of the handshake era: what the server asks its client, log levels, and whose session it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestParams,
    ElicitResult,
    LoggingMessageNotificationParams,
    TextContent,
)
from sqlalchemy import text

from tests.doors import raw
from tests.doors.fixtures import PLUGIN, make_key
from tests.doors.live import Live, http_client, open_live

pytestmark = pytest.mark.filterwarnings(
    # Sampling and logging are deprecated in the protocol, and served as long as clients speak them.
    "ignore::mcp.shared.exceptions.MCPDeprecationWarning"
)

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
ASKABLE = {"elicitation": {"form": {}}, "sampling": {}}


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "sessions", plugins=(PLUGIN,)) as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


class Talkative:
    """The SDK's client with a user, a model and an ear for logs."""

    def __init__(self) -> None:
        self.logs: list[str] = []
        self.client: Client

    async def elicit(self, context: Any, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    async def sample(self, context: Any, params: CreateMessageRequestParams) -> CreateMessageResult:
        content = params.messages[0].content
        assert isinstance(content, TextContent)
        return CreateMessageResult(
            role="assistant",
            model="the client's own",
            content=TextContent(type="text", text=f"answer to {content.text}"),
        )

    async def log(self, params: LoggingMessageNotificationParams) -> None:
        self.logs.append(params.level)


@asynccontextmanager
async def talk(live: Live, transport: str) -> AsyncIterator[Talkative]:
    talkative = Talkative()
    async with AsyncExitStack() as stack:
        if transport == "sse":
            target = sse_client(f"{live.url}/sse", headers=live.headers)
        else:
            http = await stack.enter_async_context(http_client(live.headers))
            target = streamable_http_client(f"{live.url}/mcp", http_client=http)
        talkative.client = await stack.enter_async_context(
            Client(
                target,
                mode="legacy",
                elicitation_callback=talkative.elicit,
                sampling_callback=talkative.sample,
                logging_callback=talkative.log,
            )
        )
        yield talkative


async def said(client: Client, tool: str, **arguments: Any) -> str:
    (content,) = (await client.call_tool(tool, arguments)).content
    assert isinstance(content, TextContent)
    return content.text


# --- what the server asks its client -----------------------------------------------------------


@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize("related", [True, False], ids=["the call's stream", "the session's own"])
async def test_a_tool_asks_the_clients_model(live: Live, transport: str, related: bool) -> None:
    async with talk(live, transport) as talkative, asyncio.timeout(10):
        answer = await said(talkative.client, "ask_model", question="why", related=related)
        assert answer == "answer to why"


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_a_tool_asks_the_clients_user(live: Live, transport: str) -> None:
    async with talk(live, transport) as talkative, asyncio.timeout(10):
        assert await said(talkative.client, "ask_user") == "accept: Ada"


async def test_a_request_of_the_server_comes_on_the_stream_of_the_call(
    live: Live, http: aiohttp.ClientSession
) -> None:
    session = await raw.Handshake(http, live.url, live.key).open(ASKABLE)
    call = raw.request("tools/call", {"name": "ask_user", "arguments": {}}, 7)
    async with session.listening() as own, session.posting(call) as stream:
        asked = await stream.message()
        assert asked["method"] == "elicitation/create"
        content = {"action": "accept", "content": {"name": "Grace"}}
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": content}
        assert (await session.post(answer)).status == 202
        done = await stream.message()
        assert done["id"] == 7
        assert raw.text_of(done["result"]) == "accept: Grace"
        with pytest.raises(EOFError):
            await stream.next()
        with pytest.raises(TimeoutError):
            await own.next(0.2)


async def test_a_request_beside_any_call_comes_on_the_sessions_own_stream(
    live: Live, http: aiohttp.ClientSession
) -> None:
    session = await raw.Handshake(http, live.url, live.key).open(ASKABLE)
    arguments = {"question": "why", "related": False}
    call = raw.request("tools/call", {"name": "ask_model", "arguments": arguments}, 7)
    async with session.listening() as own, session.posting(call) as stream:
        asked = await own.message()
        assert asked["method"] == "sampling/createMessage"
        content = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "so"}}
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": content}
        assert (await session.post(answer)).status == 202
        assert raw.text_of((await stream.message())["result"]) == "so"


async def test_only_the_session_that_was_asked_can_answer(
    live: Live, http: aiohttp.ClientSession
) -> None:
    """Two sessions, each with a question of the same id: an answer reaches its own only."""
    sessions = [await raw.Handshake(http, live.url, live.key).open(ASKABLE) for _ in range(2)]
    call = raw.request("tools/call", {"name": "ask_user", "arguments": {}}, 7)
    async with sessions[0].posting(call) as first, sessions[1].posting(call) as second:
        asked = [await first.message(), await second.message()]
        assert asked[0]["id"] == asked[1]["id"]
        for number, session in enumerate(sessions):
            content = {"action": "accept", "content": {"name": f"user {number}"}}
            await session.post({"jsonrpc": "2.0", "id": asked[0]["id"], "result": content})
        for number, stream in enumerate((first, second)):
            done = await stream.message()
            assert raw.text_of(done["result"]) == f"accept: user {number}"


async def test_a_client_that_cannot_be_asked_is_told_so(
    live: Live, http: aiohttp.ClientSession
) -> None:
    answer = await raw.call(http, live.url, live.key, "ask_user", {})
    assert (answer.status, answer.error["code"]) == (400, -32600)
    assert "no back-channel" in answer.error["message"]


# --- log levels --------------------------------------------------------------------------------


async def levels_after(session: raw.Handshake) -> list[str]:
    done = await session.call("log_at_every_level", {})
    *logs, answer = raw.events(done.body)
    assert raw.text_of(answer["result"]) == "logged"
    assert {item["method"] for item in logs} <= {"notifications/message"}
    assert all(item["params"]["data"] == f"at {item['params']['level']}" for item in logs)
    return [item["params"]["level"] for item in logs]


@pytest.mark.parametrize("level", LEVELS)
async def test_a_session_gets_no_log_below_the_level_it_set(
    live: Live, http: aiohttp.ClientSession, level: str
) -> None:
    session = await raw.Handshake(http, live.url, live.key).open()
    assert (await session.request("logging/setLevel", {"level": level})).result == {}
    assert await levels_after(session) == list(LEVELS[LEVELS.index(level) :])


async def test_a_session_that_sets_no_level_gets_every_log(
    live: Live, http: aiohttp.ClientSession
) -> None:
    other = await raw.Handshake(http, live.url, live.key).open()
    assert (await other.request("logging/setLevel", {"level": "emergency"})).result == {}
    session = await raw.Handshake(http, live.url, live.key).open()
    assert await levels_after(session) == list(LEVELS)
    assert await levels_after(other) == ["emergency"]


@pytest.mark.parametrize("level", ["trace", "", "ERROR", None, 3])
async def test_an_unknown_level_is_refused_and_changes_nothing(
    live: Live, http: aiohttp.ClientSession, level: Any
) -> None:
    session = await raw.Handshake(http, live.url, live.key).open()
    await session.request("logging/setLevel", {"level": "alert"})
    answer = await session.request("logging/setLevel", {"level": level})
    assert answer.error["code"] == -32602
    assert await levels_after(session) == ["alert", "emergency"]


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_the_level_holds_for_real_clients(live: Live, transport: str) -> None:
    async with talk(live, transport) as talkative, asyncio.timeout(20):
        client = talkative.client
        await client.set_logging_level("error")  # pyright: ignore[reportDeprecated]
        await said(client, "log_at_every_level")
        assert await said(client, "log_at_every_level") == "logged"
        assert set(talkative.logs) == {"error", "critical", "alert", "emergency"}


async def test_a_request_of_the_modern_era_gets_the_logs_it_asked_for(
    live: Live, http: aiohttp.ClientSession
) -> None:
    for asked, expected in ((None, []), ("alert", ["alert", "emergency"])):
        meta = {} if asked is None else {"io.modelcontextprotocol/logLevel": asked}
        params = {"name": "log_at_every_level", "arguments": {}, "_meta": meta}
        answer = await raw.modern(http, live.url, live.key, "tools/call", params)
        streamed = raw.events(answer.body) if asked else [answer.message]
        levels = [item["params"]["level"] for item in streamed if "method" in item]
        assert levels == expected


# --- whose session it is -----------------------------------------------------------------------


async def test_a_session_is_unknown_to_everybody_else(
    live: Live, http: aiohttp.ClientSession
) -> None:
    """A key of the same tenant, of another tenant, the owner: each is told that there is none."""
    mine = await make_key(live)
    session = await raw.Handshake(http, live.url, mine["key"]).open()
    own, nobodys = session.session, "0" * 32
    others = [await make_key(live), await make_key(live, tenant="other"), {"key": live.key}]
    for other in others:
        thief = raw.Handshake(http, live.url, other["key"])
        for message in (raw.request("tools/list"), raw.INITIALIZED, raw.initialize()):
            thief.session = nobodys
            unknown = await thief.post(message)
            thief.session = own
            stolen = await thief.post(message)
            assert (
                (stolen.status, stolen.body)
                == (unknown.status, unknown.body)
                == (
                    404,
                    unknown.body,
                )
            )
        for method in ("GET", "DELETE"):
            answer = await raw.send(http, method, f"{live.url}/mcp", headers=thief.headers)
            assert (answer.status, answer.body) == (404, unknown.body)
    assert (await session.request("ping")).result == {}


async def test_a_connection_takes_messages_of_its_own_key_only(
    live: Live, http: aiohttp.ClientSession
) -> None:
    mine, other = await make_key(live), await make_key(live)
    async with raw.open_sse(http, live.url, mine["key"]) as session:
        stolen = await session.post(raw.request("ping", {}, 99), key=other["key"])
        endpoint, session.endpoint = session.endpoint, "/messages/?session_id=" + "0" * 32
        unknown = await session.post(raw.request("ping"))
        assert (stolen.status, stolen.body) == (unknown.status, unknown.body)
        assert stolen.status == 404
        session.endpoint = endpoint
        assert (await session.request("ping"))["result"] == {}
        assert session.others.empty()


async def test_each_message_of_a_connection_acts_for_the_key_that_sent_it(
    live: Live, http: aiohttp.ClientSession
) -> None:
    async with AsyncExitStack() as stack:
        sessions: dict[str, raw.SseSession] = {}
        for tenant in ("left", "right"):
            key = await make_key(live, tenant=tenant)
            sessions[tenant] = await stack.enter_async_context(
                raw.open_sse(http, live.url, key["key"])
            )
        for tenant, session in sessions.items():
            await session.call("kv_set", {"key": "who", "value": tenant})
        for tenant, session in sessions.items():
            done = await session.call("kv_get", {"key": "who"})
            assert done["result"]["structuredContent"]["value"] == tenant


async def test_an_ended_session_is_gone(live: Live, http: aiohttp.ClientSession) -> None:
    session = await raw.Handshake(http, live.url, live.key).open()
    async with session.listening() as own:
        ended = await raw.send(http, "DELETE", f"{live.url}/mcp", headers=session.headers)
        assert ended.status == 200
        await own.end(2)
    assert (await session.request("ping")).status == 404


async def test_a_stream_that_is_resumed_shows_nothing_of_any_session(
    live: Live, http: aiohttp.ClientSession
) -> None:
    """There is no event store: it would replay what other sessions received."""
    other = await raw.Handshake(http, live.url, live.key).open()
    await other.call("kv_set", {"key": "secret", "value": "another session's"})
    session = await raw.Handshake(http, live.url, live.key).open()
    for last in ("1", "0", "_GET_stream", "x"):
        headers = {**session.headers, "Last-Event-ID": last}
        async with http.get(f"{live.url}/mcp", headers=headers) as answer:
            assert answer.status == 200
            with pytest.raises(TimeoutError):
                await raw.EventStream(answer).next(0.2)


async def test_however_many_connections_come_the_engines_stay_as_they_are(
    live: Live, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines, entered = live.runtime.engines, list[str]()
    lowlevel = live.runtime.server._lowlevel_server
    lifespan = lowlevel.lifespan

    def counting(server: Any) -> Any:
        entered.append("entered")
        return lifespan(server)

    monkeypatch.setattr(lowlevel, "lifespan", counting)

    async def connections() -> int:
        query = "select count(*) from pg_stat_activity where application_name like 'isthmus%'"
        async with engines.control.connect() as tx:
            return await tx.scalar(text(query)) or 0

    before = await connections()
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(raw.open_sse(http, live.url, live.key))
            for _ in range(20)
        ]
        sessions = [await raw.Handshake(http, live.url, live.key).open() for _ in range(20)]
        for number, session in enumerate(opened):
            done = await session.call("kv_set", {"key": "n", "value": number})
            assert not done["result"]["isError"]
        for session in sessions:
            assert not (await session.call("kv_get", {"key": "n"})).result["isError"]
        assert await connections() <= before + 2
    assert entered == []


async def test_a_stream_that_is_opened_again_takes_the_place_of_the_lost_one(
    live: Live, http: aiohttp.ClientSession
) -> None:
    session = await raw.Handshake(http, live.url, live.key).open()
    uri = "kv://default/reopened"
    assert (await session.request("resources/subscribe", {"uri": uri})).result == {}
    async with session.listening() as first, session.listening() as second:
        await first.end(2)
        for value in range(20):
            async with session.listening() as stream:
                if value % 3 == 0:
                    await asyncio.sleep(0)
                    continue
                await session.call("kv_set", {"key": "reopened", "value": value})
                assert (await stream.message(3))["params"] == {"uri": uri}
        await second.end(2)


async def test_a_stranger_does_not_end_the_stream_of_a_session(
    live: Live, http: aiohttp.ClientSession
) -> None:
    session = await raw.Handshake(http, live.url, live.key).open()
    stranger = await make_key(live, "read", tenant="stranger")
    foreign = raw.Handshake(http, live.url, stranger["key"])
    foreign.session = session.session
    async with session.listening() as stream:
        refused = await raw.send(http, "GET", f"{live.url}/mcp", headers=foreign.headers)
        assert refused.status == 404
        with pytest.raises(TimeoutError):
            await stream.next(0.3)
