"""Whoever watches a resource hears of its changes, through whichever door they come, and nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest
from sqlalchemy.exc import OperationalError

from mcp_server import journal
from tests.doors import raw
from tests.doors.fixtures import make_key, until
from tests.doors.live import Live, open_door, open_live

HEARD_SECONDS = 3.0
SILENT_SECONDS = 0.7


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "subscriptions") as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


class Ear(Protocol):
    """A client that watches some resources."""

    async def heard(self, seconds: float) -> str:
        """Return the URI of the next update."""
        ...


class SessionEar:
    def __init__(self, session: raw.Handshake, stream: raw.EventStream) -> None:
        self.session, self.stream = session, stream

    async def heard(self, seconds: float) -> str:
        return uri_of(await self.stream.message(seconds))


class SseEar:
    def __init__(self, session: raw.SseSession) -> None:
        self.session = session

    async def heard(self, seconds: float) -> str:
        async with asyncio.timeout(seconds):
            return uri_of(await self.session.others.get())


class ListenEar:
    def __init__(self, stream: raw.EventStream) -> None:
        self.stream = stream

    async def heard(self, seconds: float) -> str:
        message = await self.stream.message(seconds)
        meta = message["params"]["_meta"]
        assert meta["io.modelcontextprotocol/subscriptionId"] == "watch"
        return uri_of(message)


def uri_of(message: raw.Message) -> str:
    assert message["method"] == "notifications/resources/updated", message
    return message["params"]["uri"]


async def watch(
    stack: AsyncExitStack, http: aiohttp.ClientSession, live: Live, kind: str, key: str, *uris: str
) -> Any:
    """Open an ear; when this returns the server has said that it is subscribed."""
    match kind:
        case "session":
            session = await raw.Handshake(http, live.url, key).open()
            stream = await stack.enter_async_context(session.listening())
            for uri in uris:
                assert (await session.request("resources/subscribe", {"uri": uri})).result == {}
            return SessionEar(session, stream)
        case "sse":
            sse = await stack.enter_async_context(raw.open_sse(http, live.url, key))
            for uri in uris:
                assert (await sse.request("resources/subscribe", {"uri": uri}))["result"] == {}
            return SseEar(sse)
        case _:
            wanted = {"notifications": {"resourceSubscriptions": list(uris)}}
            answer = await stack.enter_async_context(
                http.post(
                    f"{live.url}/mcp",
                    json=raw.modern_request("subscriptions/listen", wanted, "watch"),
                    headers=raw.modern_headers(key, "subscriptions/listen"),
                )
            )
            stream = raw.EventStream(answer)
            acknowledged = await stream.message()
            assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
            return ListenEar(stream)


async def is_silent(ear: Ear) -> bool:
    try:
        await ear.heard(SILENT_SECONDS)
    except TimeoutError:
        return True
    return False


async def set_key(
    live: Live, http: aiohttp.ClientSession, key: str, name: str, **more: Any
) -> None:
    answer = await raw.call(http, live.url, key, "kv_set", {"key": name, "value": 1, **more})
    assert not answer.result["isError"], answer.body


EARS = ["session", "sse", "listen"]


@pytest.mark.parametrize("writer", ["bus", "stdio", "http", "http-legacy", "sse", "chat"])
async def test_a_change_through_any_door_is_heard(
    live: Live, http: aiohttp.ClientSession, writer: str
) -> None:
    uri = f"kv://default/by-{writer}"
    async with AsyncExitStack() as stack:
        ears = [await watch(stack, http, live, kind, live.key, uri) for kind in EARS]
        door = await stack.enter_async_context(open_door(live, writer))
        done = await door.call("kv_set", {"key": f"by-{writer}", "value": 1})
        assert not done.is_error
        for ear in ears:
            assert await ear.heard(HEARD_SECONDS) == uri


async def test_the_change_right_after_the_acknowledgement_is_heard(
    anyio_backend: object,
    scratch: Path,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even if the first listener waits long for the journal's end."""
    end = journal.end

    async def slow(control: Any) -> Any:
        await asyncio.sleep(0.5)
        return await end(control)

    monkeypatch.setattr(journal, "end", slow)
    async with open_live(scratch / "subscriptions-slow") as live:
        for kind in ("listen", "sse", "session"):
            await until(lambda: not live.runtime.updates._following.is_set())
            async with AsyncExitStack() as stack:
                ear = await watch(stack, http, live, kind, live.key, f"kv://default/{kind}")
                await set_key(live, http, live.key, kind)
                assert await ear.heard(HEARD_SECONDS) == f"kv://default/{kind}"


@pytest.mark.parametrize("kind", EARS)
async def test_every_kind_of_resource_is_heard(
    live: Live, http: aiohttp.ClientSession, kind: str
) -> None:
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        f"object://default/{kind}.txt": ("object_put", {"key": f"{kind}.txt", "text": "x"}),
        f"vector://{kind}/d1": ("vector_add", {"store": kind, "document": "d1", "text": "x"}),
        f"agent://{kind}": ("agent_save", {"name": kind, "instructions": "x"}),
        f"sql://main/of_{kind}": ("sql_execute", {"sql": f"create table of_{kind} (a int)"}),
    }
    async with AsyncExitStack() as stack:
        ear = await watch(stack, http, live, kind, live.key, *changes)
        for uri, (tool, arguments) in changes.items():
            answer = await raw.call(http, live.url, live.key, tool, arguments)
            assert not answer.result["isError"], answer.body
            assert await ear.heard(HEARD_SECONDS) == uri


@pytest.mark.parametrize("kind", EARS)
async def test_what_is_not_watched_is_not_heard(
    live: Live, http: aiohttp.ClientSession, kind: str
) -> None:
    async with AsyncExitStack() as stack:
        ear = await watch(stack, http, live, kind, live.key, "kv://default/watched")
        for name in ("watched-not", "watche", "watched/below"):
            await set_key(live, http, live.key, name)
        await set_key(live, http, live.key, "watched", namespace="other")
        assert await is_silent(ear)
        await set_key(live, http, live.key, "watched")
        assert await ear.heard(HEARD_SECONDS) == "kv://default/watched"


@pytest.mark.parametrize("kind", EARS)
async def test_another_tenants_change_is_not_heard(
    live: Live, http: aiohttp.ClientSession, kind: str
) -> None:
    """The same URI means another thing in another tenant."""
    stranger = await make_key(live, tenant="stranger")
    async with AsyncExitStack() as stack:
        uri = "kv://default/same-name"
        ear = await watch(stack, http, live, kind, live.key, uri)
        foreign = await watch(stack, http, live, kind, stranger["key"], uri)
        await set_key(live, http, stranger["key"], "same-name")
        assert await foreign.heard(HEARD_SECONDS) == uri
        assert await is_silent(ear)
        await set_key(live, http, live.key, "same-name")
        assert await ear.heard(HEARD_SECONDS) == uri
        assert await is_silent(foreign)


@pytest.mark.parametrize("kind", EARS)
async def test_only_what_a_key_may_read_is_heard(
    live: Live, http: aiohttp.ClientSession, kind: str
) -> None:
    narrow = await make_key(live, "read:kv://default/open/*")
    async with AsyncExitStack() as stack:
        uris = ["kv://default/open/x"]
        if kind == "listen":  # which acknowledges everything and delivers what it may
            uris.append("kv://default/closed")
        ear = await watch(stack, http, live, kind, narrow["key"], *uris)
        await set_key(live, http, live.key, "closed")
        await set_key(live, http, live.key, "open/x")
        assert await ear.heard(HEARD_SECONDS) == "kv://default/open/x"
        assert await is_silent(ear)


@pytest.mark.parametrize("kind", EARS)
async def test_a_bucket_of_the_operators_is_heard_by_those_whose_scopes_name_it(
    live: Live, http: aiohttp.ClientSession, kind: str
) -> None:
    plain = await make_key(live, "read")
    named = await make_key(live, "read:object://shelf/*")
    async with AsyncExitStack() as stack:
        uri = "object://shelf/secret"
        ear = await watch(stack, http, live, kind, plain["key"], uri)
        other = await watch(stack, http, live, kind, named["key"], uri)
        entry = {"version": None, "prev_version": None, "run": None, "step": None}
        async with live.runtime.engines.control.begin() as tx:
            await journal.append(
                tx,
                tenant="default",
                subject="x",
                verb="write",
                uri=uri,
                labels=["bucket:0", "egress"],
                **entry,
            )
        assert await other.heard(HEARD_SECONDS) == uri
        assert await is_silent(ear)


async def test_a_session_may_not_subscribe_to_what_it_may_not_read(
    live: Live, http: aiohttp.ClientSession
) -> None:
    for scopes in (["read:kv://default/open/*"], ["write"], ["run"]):
        key = await make_key(live, *scopes)
        session = await raw.Handshake(http, live.url, key["key"]).open()
        refused = await session.request("resources/subscribe", {"uri": "kv://default/closed"})
        assert refused.error["code"] == -32602
        assert refused.error["message"].startswith("forbidden: ")


async def test_after_unsubscribing_nothing_is_heard(
    live: Live, http: aiohttp.ClientSession
) -> None:
    async with AsyncExitStack() as stack:
        uri, other = "kv://default/for-a-while", "kv://default/for-longer"
        ear = await watch(stack, http, live, "session", live.key, uri, other)
        assert (await ear.session.request("resources/unsubscribe", {"uri": uri})).result == {}
        again = await ear.session.request("resources/unsubscribe", {"uri": "kv://default/never"})
        assert again.result == {}
        await set_key(live, http, live.key, "for-a-while")
        await set_key(live, http, live.key, "for-longer")
        assert await ear.heard(HEARD_SECONDS) == other
        assert await is_silent(ear)


async def test_who_leaves_is_forgotten(live: Live, http: aiohttp.ClientSession) -> None:
    listeners = live.runtime.updates._listeners
    before = len(listeners)
    async with AsyncExitStack() as stack:
        for kind in EARS:
            await watch(stack, http, live, kind, live.key, "kv://default/x")
        assert len(listeners) == before + 3
        session = await raw.Handshake(http, live.url, live.key).open()
        await session.request("resources/subscribe", {"uri": "kv://default/x"})
        await raw.send(http, "DELETE", f"{live.url}/mcp", headers=session.headers)
    async with asyncio.timeout(5):
        while len(listeners) > before + 1:  # the handshake session lives on without its stream
            await asyncio.sleep(0.01)


async def test_changes_during_an_outage_of_the_database_are_heard_after_it(
    live: Live, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, read = list[str](), journal.read_everything

    async def failing(*arguments: Any) -> Any:
        if len(failed) < 2:
            failed.append("failed")
            if len(failed) == 1:
                raise OperationalError("select", {}, ConnectionResetError())
            raise RuntimeError("nobody expected that")
        return await read(*arguments)

    async with AsyncExitStack() as stack:
        ear = await watch(stack, http, live, "listen", live.key, "kv://default/outage")
        monkeypatch.setattr(journal, "read_everything", failing)
        await set_key(live, http, live.key, "outage")
        assert await ear.heard(10) == "kv://default/outage"
        assert len(failed) == 2


@pytest.mark.parametrize("kind", EARS)
async def test_a_listener_may_watch_much_but_not_everything(
    live: Live, http: aiohttp.ClientSession, kind: str
) -> None:
    uris = [f"kv://default/many-{number}" for number in range(1025)]
    if kind == "listen":
        wanted = {"notifications": {"resourceSubscriptions": uris}}
        answer = await raw.modern(http, live.url, live.key, "subscriptions/listen", wanted)
        assert answer.error["message"].startswith("limit_exceeded: ")
        return
    async with AsyncExitStack() as stack:
        ear = await watch(stack, http, live, kind, live.key, *uris[:1024])
        refused = await ear.session.request("resources/subscribe", {"uri": uris[1024]})
        message = refused.message if isinstance(refused, raw.Reply) else refused
        assert message["error"]["message"].startswith("limit_exceeded: ")
        await set_key(live, http, live.key, "many-1023")
        assert await ear.heard(HEARD_SECONDS) == "kv://default/many-1023"


async def test_a_change_of_the_tool_list_is_heard(live: Live, http: aiohttp.ClientSession) -> None:
    from mcp.server.subscriptions import ToolsListChanged

    wanted = {"notifications": {"toolsListChanged": True}}
    async with http.post(
        f"{live.url}/mcp",
        json=raw.modern_request("subscriptions/listen", wanted, "watch"),
        headers=raw.modern_headers(live.key, "subscriptions/listen"),
    ) as answer:
        stream = raw.EventStream(answer)
        await stream.message()
        await live.runtime.updates.publish(ToolsListChanged())
        assert (await stream.message(2))["method"] == "notifications/tools/list_changed"
