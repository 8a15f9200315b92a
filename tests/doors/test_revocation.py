"""A key that is revoked or expires is dead within one second, at every door, whatever it is doing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import update

from mcp_server.auth.keys import NewKey
from mcp_server.doors import DeclaredRoute
from mcp_server.llm.metered import Metered
from mcp_server.storage.sql.schema import api_keys
from tests.doors import raw
from tests.doors.fixtures import PLUGIN, Record, make_key, until
from tests.doors.live import Live, open_live

# A second is promised, and printed is what it took: a busy machine adds to it what it likes. Nothing here ends by itself.
MOST_SECONDS = 20.0


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "revocation", plugins=(PLUGIN,)) as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")


async def revoke(live: Live, key: NewKey) -> None:
    await live.runtime.services.keys.revoke(key["id"])


async def expire(live: Live, key: NewKey) -> None:
    """End a key by its date, as time would."""
    async with live.runtime.engines.control.begin() as tx:
        past = datetime.now(UTC) - timedelta(milliseconds=1)
        await tx.execute(update(api_keys).where(api_keys.c.id == key["id"]).values(expires_at=past))


ENDS = {"revoked": revoke, "expired": expire}
End = Callable[[Live, NewKey], Awaitable[None]]


@pytest.fixture(params=ENDS)
def end(request: pytest.FixtureRequest) -> End:
    return ENDS[request.param]


class Stopwatch:
    def __init__(self) -> None:
        self.begun = time.monotonic()

    def check(self, what: str) -> None:
        took = time.monotonic() - self.begun
        print(f"{what}: dead after {took:.2f} s")
        assert took < MOST_SECONDS, f"{what}: dead only after {took:.2f} s"

    @property
    def left(self) -> float:
        return MOST_SECONDS - (time.monotonic() - self.begun)


def is_unauthenticated(reply: raw.Reply) -> bool:
    if reply.status != 401:
        return False
    assert reply.headers["www-authenticate"] == 'Bearer realm="isthmus"'
    return True


# --- an idle key -------------------------------------------------------------------------------


async def ask_models(http: aiohttp.ClientSession, live: Live, key: str) -> raw.Reply:
    return await raw.send(http, "GET", f"{live.url}/v1/models", headers=raw.bearer(key))


async def ask_tools(http: aiohttp.ClientSession, live: Live, key: str) -> raw.Reply:
    return await raw.modern(http, live.url, key, "tools/list")


async def ask_initialize(http: aiohttp.ClientSession, live: Live, key: str) -> raw.Reply:
    return await raw.Handshake(http, live.url, key).post(raw.initialize())


async def ask_sse(http: aiohttp.ClientSession, live: Live, key: str) -> raw.Reply:
    async with http.get(f"{live.url}/sse", headers=raw.bearer(key)) as answer:
        body = "" if answer.status == 200 else await answer.text()
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return raw.Reply(answer.status, headers, body)


IDLE = {"models": ask_models, "modern": ask_tools, "initialize": ask_initialize, "sse": ask_sse}


@pytest.mark.parametrize("door", IDLE)
async def test_an_idle_key_opens_nothing_any_more(
    live: Live, http: aiohttp.ClientSession, door: str, end: End
) -> None:
    key = await make_key(live)
    assert (await IDLE[door](http, live, key["key"])).status == 200
    await end(live, key)
    watch = Stopwatch()
    while not is_unauthenticated(await IDLE[door](http, live, key["key"])):
        watch.check(door)
        await asyncio.sleep(0.01)


async def test_a_session_dies_with_its_key(live: Live, http: aiohttp.ClientSession) -> None:
    key = await make_key(live)
    session = await raw.Handshake(http, live.url, key["key"]).open()
    await revoke(live, key)
    watch = Stopwatch()
    while not is_unauthenticated(await session.request("tools/list")):
        watch.check("session")
        await asyncio.sleep(0.01)


# --- a tool call in progress -------------------------------------------------------------------


async def call_modern(http: aiohttp.ClientSession, live: Live, key: str, args: Any) -> raw.Reply:
    return await raw.call(http, live.url, key, "wait", args)


async def call_handshake(http: aiohttp.ClientSession, live: Live, key: str, args: Any) -> raw.Reply:
    session = await raw.Handshake(http, live.url, key).open()
    return await session.call("wait", args)


async def call_sse(http: aiohttp.ClientSession, live: Live, key: str, args: Any) -> raw.Reply:
    async with raw.open_sse(http, live.url, key) as session:
        return raw.Reply(200, {}, json.dumps(await session.call("wait", args)))


def chat_body(args: Any, *, stream: bool = False) -> dict[str, Any]:
    wanted = json.dumps({"tool": "wait", "arguments": args})
    return {
        "model": "default",
        "messages": [{"role": "user", "content": wanted}],
        "tools": [{"type": "mcp", "server_label": "isthmus", "allowed_tools": ["wait"]}],
        "stream": stream,
    }


async def call_chat(http: aiohttp.ClientSession, live: Live, key: str, args: Any) -> raw.Reply:
    url = f"{live.url}/v1/chat/completions"
    return await raw.send(http, "POST", url, json=chat_body(args), headers=raw.bearer(key))


async def call_chat_stream(
    http: aiohttp.ClientSession, live: Live, key: str, args: Any
) -> raw.Reply:
    url = f"{live.url}/v1/chat/completions"
    body = chat_body(args, stream=True)
    return await raw.send(http, "POST", url, json=body, headers=raw.bearer(key))


CALLS = {
    "modern": call_modern,
    "handshake": call_handshake,
    "sse": call_sse,
    "chat": call_chat,
    "chat-stream": call_chat_stream,
}


@pytest.mark.parametrize("door", CALLS)
@pytest.mark.parametrize("progress", [False, True], ids=["silent", "streaming"])
async def test_a_running_tool_call_ends(
    live: Live, http: aiohttp.ClientSession, record: Record, door: str, progress: bool
) -> None:
    key = await make_key(live)
    arguments = {**record.arguments, "progress": progress}
    calling = asyncio.create_task(CALLS[door](http, live, key["key"], arguments))
    await record.started()
    await revoke(live, key)
    watch = Stopwatch()
    await record.cancelled(MOST_SECONDS)
    async with asyncio.timeout(max(watch.left, 0.05)):
        answer = (await asyncio.gather(calling, return_exceptions=True))[0]
    watch.check(door)
    assert "done" not in str(answer)
    if isinstance(answer, raw.Reply):
        assert answer.status != 500, answer
        assert "Traceback" not in answer.body


async def test_a_call_cut_before_it_answered_says_why(
    live: Live, http: aiohttp.ClientSession, record: Record
) -> None:
    key = await make_key(live)
    calling = asyncio.create_task(call_modern(http, live, key["key"], record.arguments))
    await record.started()
    await revoke(live, key)
    answer = await calling
    assert is_unauthenticated(answer)
    assert answer.error["message"].startswith("unauthenticated: ")


async def test_a_key_that_lives_is_left_alone(
    live: Live, http: aiohttp.ClientSession, record: Record
) -> None:
    key, other = await make_key(live), await make_key(live)
    arguments = {**record.arguments, "seconds": 1.5}
    calling = asyncio.create_task(call_modern(http, live, other["key"], arguments))
    await record.started()
    await revoke(live, key)
    assert raw.text_of((await calling).result) == "done"


# --- an open stream ----------------------------------------------------------------------------

LISTEN = {"notifications": {"resourceSubscriptions": ["kv://default/x"]}}


async def open_stream(
    stack: AsyncExitStack, http: aiohttp.ClientSession, live: Live, key: str, kind: str
) -> raw.EventStream:
    match kind:
        case "sse":
            answer = http.get(f"{live.url}/sse", headers=raw.bearer(key))
        case "session":
            session = await raw.Handshake(http, live.url, key).open()
            return await stack.enter_async_context(session.listening())
        case "listen":
            answer = http.post(
                f"{live.url}/mcp",
                json=raw.modern_request("subscriptions/listen", LISTEN),
                headers=raw.modern_headers(key, "subscriptions/listen"),
            )
        case _:
            answer = http.post(
                f"{live.url}/v1/chat/completions",
                json={
                    "model": "default",
                    "messages": [{"role": "user", "content": "x"}],
                    "stream": True,
                },
                headers=raw.bearer(key),
            )
    opened = await stack.enter_async_context(answer)
    assert opened.status == 200, await opened.text()
    return raw.EventStream(opened)


@pytest.mark.parametrize("kind", ["sse", "session", "listen"])
async def test_an_open_stream_ends(
    live: Live, http: aiohttp.ClientSession, kind: str, end: End
) -> None:
    key, other = await make_key(live), await make_key(live)
    async with AsyncExitStack() as stack:
        stream = await open_stream(stack, http, live, key["key"], kind)
        kept = await open_stream(stack, http, live, other["key"], kind)
        await end(live, key)
        await stream.end(MOST_SECONDS)
        with pytest.raises(TimeoutError):
            await kept.end(0.3)


async def test_a_chat_stream_ends(
    anyio_backend: object, scratch: Path, http: aiohttp.ClientSession
) -> None:
    async with open_live(scratch / "revocation-chat", llm_url=("scripted:",)) as live:
        key = await make_key(live)
        gate = asyncio.Event()
        slow = Metered.stream_batches

        async def held(self: Any, request: Any) -> AsyncIterator[Any]:
            async for batch in slow(self, request):
                yield batch
                await gate.wait()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Metered, "stream_batches", held)
            async with AsyncExitStack() as stack:
                stream = await open_stream(stack, http, live, key["key"], "chat")
                await stream.message()
                await revoke(live, key)
                watch = Stopwatch()
                last = await stream.message(MOST_SECONDS)
                await stream.end(max(watch.left, 0.05))
        assert set(last["error"]) == {"message", "type", "param", "code"}


# --- what never was a key ----------------------------------------------------------------------

WRONG = {
    "none": [],
    "empty": [("Authorization", "")],
    "bearer without a key": [("Authorization", "Bearer")],
    "bearer with a blank": [("Authorization", "Bearer   ")],
    "basic": [("Authorization", "Basic b3duZXI6b3duZXI=")],
    "unknown": [("Authorization", "Bearer sk-isth-unknown")],
    "a bare key": [("Authorization", "{key}")],
    "another scheme": [("Authorization", "Token {key}")],
    "twice": [("Authorization", "Bearer {key}"), ("Authorization", "Bearer {key}")],
    "good and bad": [("Authorization", "Bearer {key}"), ("Authorization", "Bearer x")],
    "two in one": [("Authorization", "Bearer {key}, Bearer {key}")],
    "not ASCII": [("Authorization", "Bearer schlüssel")],
    "in the query": [],
    "another header": [("X-Api-Key", "{key}"), ("Api-Key", "{key}")],
}


def protected(live: Live) -> list[tuple[str, str, str]]:
    """Every route that takes a key: its method, path and door."""
    return sorted(
        (method, route.path.replace("{model:path}", "default"), route.door)
        for route in live.http.gate.routes
        if not route.public
        if not route.local  # test_metrics.py asks it
        for method in route.methods or ()
    )


@pytest.mark.parametrize("case", WRONG)
async def test_without_a_valid_key_every_route_answers_401_in_its_own_form(
    live: Live, http: aiohttp.ClientSession, case: str
) -> None:
    headers = [(name, value.format(key=live.key)) for name, value in WRONG[case]]
    query = f"?api_key={live.key}&key={live.key}" if case == "in the query" else ""
    routes = protected(live)
    assert {path for _, path, _ in routes} >= {"/mcp", "/sse", "/messages/", "/v1/models"}
    for method, path, door in routes:
        answer = await raw.send(http, method, f"{live.url}{path}{query}", headers=headers)
        where = (method, path, answer)
        assert is_unauthenticated(answer), where
        assert live.key not in answer.body
        if method == "HEAD":
            continue
        body = json.loads(answer.body)
        if door == "openai":
            assert body["error"]["code"] == "invalid_api_key", where
            assert set(body["error"]) == {"message", "type", "param", "code"}
        elif door == "plain":
            assert body["error"] == "unauthenticated", where
        else:
            assert body["jsonrpc"] == "2.0", where
            assert body["id"] is None
            assert body["error"]["message"].startswith("unauthenticated: ")


async def test_only_health_the_description_and_the_unknown_under_v1_are_public(live: Live) -> None:
    public = {route.path for route in live.http.gate.routes if route.public}
    # A link is its own ticket: its token stands in the path.
    paths = {"/healthz", "/readyz", "/openapi.json", "/links/{token}", "/v1", "/v1/{path:anything}"}
    assert public == paths
    assert all(isinstance(route, DeclaredRoute) and route.verb for route in live.http.gate.routes)


async def test_the_scheme_may_be_written_in_any_case(
    live: Live, http: aiohttp.ClientSession
) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"Authorization": f"{scheme} {live.key}"}
        answer = await raw.send(http, "GET", f"{live.url}/v1/models", headers=headers)
        assert answer.status == 200, scheme


async def test_the_watch_goes_on_after_the_database_failed_it(
    live: Live, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    keys, failures = live.runtime.services.keys, list[str]()
    dead = keys.dead

    async def failing(ids: set[str]) -> set[str]:
        if len(failures) < 2:
            failures.append("failed")
            raise PoolTimeout("no connection is free")
        return await dead(ids)

    monkeypatch.setattr(keys, "dead", failing)
    key = await make_key(live)
    async with AsyncExitStack() as stack:
        stream = await open_stream(stack, http, live, key["key"], "sse")
        await until(lambda: len(failures) == 2, 5, "the watch asks twice")
        await revoke(live, key)
        await stream.end(2 * MOST_SECONDS)


async def test_a_database_that_is_away_is_not_a_defect(
    live: Live, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await make_key(live)

    async def away(digest: bytes) -> Any:
        raise ConnectionRefusedError(digest)

    monkeypatch.setattr(live.runtime.services.keys, "_look_up", away)
    answer = await ask_tools(http, live, key["key"])
    assert answer.status == 503
    assert answer.error["message"].startswith("unavailable: ")
    assert (await ask_models(http, live, key["key"])).status == 503
