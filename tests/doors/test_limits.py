"""Rates: counted once for each request at a door, per key, and told in the form of the door."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from mcp import Client
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError
from openai import AsyncOpenAI

from mcp_server.auth.principal import OWNER
from tests.doors import raw
from tests.doors.fixtures import PLUGIN, make_key
from tests.doors.live import Live, http_client, open_door, open_live, stdio_parameters

RATE = 3
# Three calls of tools in one chat, then a text.
SCRIPT = """
turns:
- tool_calls: [{name: kv_set, arguments: {key: a, value: 1}}, {name: kv_set, arguments: {key: b, value: 1}}]
- tool_calls: [{name: kv_get, arguments: {key: a}}]
- text: done
"""


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    script = scratch / "limits.yaml"
    script.write_text(SCRIPT, encoding="utf-8")
    async with open_live(
        scratch / "limits", plugins=(PLUGIN,), llm_url=(f"scripted:{script}",)
    ) as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


@pytest.fixture
async def key(live: Live) -> str:
    """A key that may ask three times a day."""
    return (await make_key(live, rate_limit=f"{RATE}/day"))["key"]


COUNTED: dict[str, tuple[str, dict[str, Any]]] = {
    "tools/call": ("tools/call", {"name": "kv_list", "arguments": {}}),
    "a tool that fails": ("tools/call", {"name": "kv_get", "arguments": {"key": "none"}}),
    "a tool that is not there": ("tools/call", {"name": "none", "arguments": {}}),
    "arguments that do not fit": ("tools/call", {"name": "kv_get", "arguments": {"x": 1}}),
    "resources/read": ("resources/read", {"uri": "model://scripted"}),
    "a resource that is not there": ("resources/read", {"uri": "none://x"}),
    "prompts/get": ("prompts/get", {"name": "odd_prompt", "arguments": {"kind": "x"}}),
    "a prompt that is not there": ("prompts/get", {"name": "none"}),
}
FREE: dict[str, tuple[str, dict[str, Any]]] = {
    "tools/list": ("tools/list", {}),
    "resources/list": ("resources/list", {}),
    "resources/templates/list": ("resources/templates/list", {}),
    "prompts/list": ("prompts/list", {}),
    "completion/complete": (
        "completion/complete",
        {
            "ref": {"type": "ref/prompt", "name": "odd_prompt"},
            "argument": {"name": "kind", "value": ""},
        },
    ),
}


def is_limited(message: dict[str, Any]) -> bool:
    error = message.get("error")
    if error is None or error["code"] != -32029:
        return False
    assert 0 < error["data"]["retry_after_seconds"] <= 24 * 3600
    assert "is used up" in error["message"]
    return True


@pytest.mark.parametrize("case", COUNTED)
async def test_the_request_over_the_rate_is_refused(
    live: Live, http: aiohttp.ClientSession, key: str, case: str
) -> None:
    method, params = COUNTED[case]
    for _ in range(RATE):
        assert not is_limited((await raw.modern(http, live.url, key, method, params)).message)
    refused = await raw.modern(http, live.url, key, method, params)
    assert is_limited(refused.message), refused
    # Each door refuses: the count is of the key, not of the connection.
    session = await raw.Handshake(http, live.url, key).open()
    assert is_limited((await session.request(method, params)).message)
    async with raw.open_sse(http, live.url, key) as connection:
        assert is_limited(await connection.request(method, params))
    models = await raw.send(http, "GET", f"{live.url}/v1/models", headers=raw.bearer(key))
    assert models.status == 429


@pytest.mark.parametrize("case", FREE)
async def test_lists_are_free(live: Live, http: aiohttp.ClientSession, key: str, case: str) -> None:
    method, params = FREE[case]
    for _ in range(RATE + 2):
        assert "result" in (await raw.modern(http, live.url, key, method, params)).message
    session = await raw.Handshake(http, live.url, key).open()
    for _ in range(RATE + 2):
        assert "result" in (await session.request(method, params)).message
    assert (await session.request("ping")).result == {}


def check_429(answer: raw.Reply) -> None:
    assert answer.status == 429
    seconds = int(answer.headers["retry-after"])
    assert 1 <= seconds <= 24 * 3600
    assert abs(int(answer.headers["retry-after-ms"]) - seconds * 1000) <= 1000
    error = json.loads(answer.body)["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")


CHAT: dict[str, Any] = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "go"}],
    "tools": [{"type": "mcp", "server_label": "isthmus"}],
}
PLAIN: dict[str, Any] = {
    "model": "scripted",
    "messages": [
        {"role": "assistant", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
    ],
}
V1: dict[str, tuple[str, str, Any]] = {
    "models": ("GET", "/v1/models", None),
    "a model": ("GET", "/v1/models/scripted", None),
    "embeddings": ("POST", "/v1/embeddings", {"model": "default", "input": "An isthmus."}),
    "chat": ("POST", "/v1/chat/completions", PLAIN),
    "chat stream": ("POST", "/v1/chat/completions", {**PLAIN, "stream": True}),
    "chat with tools": ("POST", "/v1/chat/completions", CHAT),
    "chat with tools, stream": ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
}


@pytest.mark.parametrize("case", V1)
async def test_each_request_under_v1_counts_once(
    live: Live, http: aiohttp.ClientSession, key: str, case: str
) -> None:
    """A chat that runs three tools as well: the tools are not counted again."""
    method, path, body = V1[case]
    url, headers = f"{live.url}{path}", raw.bearer(key)
    for _ in range(RATE):
        answer = await raw.send(http, method, url, json=body, headers=headers)
        assert answer.status == 200, answer
        assert (
            case != "chat with tools" or len(json.loads(answer.body)["isthmus"]["tool_calls"]) == 3
        )
    check_429(await raw.send(http, method, url, json=body, headers=headers))
    refused = await raw.call(http, live.url, key, "kv_list", {})
    assert is_limited(refused.message)


BAD: dict[str, tuple[str, str, bytes | None, int]] = {
    "no JSON": ("POST", "/v1/chat/completions", b"{", 400),
    "no model": ("POST", "/v1/chat/completions", b"{}", 400),
    "no input": ("POST", "/v1/embeddings", b'{"model": "default"}', 400),
    "no such path": ("GET", "/v1/none", None, 404),
    "no such model": ("GET", "/v1/models/none", None, 404),
    "another method": ("DELETE", "/v1/models", None, 405),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_request_under_v1_that_is_refused_counts_too(
    live: Live, http: aiohttp.ClientSession, key: str, case: str
) -> None:
    method, path, body, status = BAD[case]
    headers = {**raw.bearer(key), "Content-Type": "application/json"}
    for _ in range(RATE):
        answer = await raw.send(http, method, live.url + path, data=body, headers=headers)
        assert answer.status == status, answer
    check_429(await raw.send(http, method, live.url + path, data=body, headers=headers))
    check_429(await raw.send(http, "GET", f"{live.url}/v1/models", headers=raw.bearer(key)))


async def test_an_unknown_path_without_a_good_key_is_unknown_and_counts_for_nobody(
    live: Live, http: aiohttp.ClientSession, key: str
) -> None:
    for headers in ({}, raw.bearer("sk-isth-wrong"), {"Authorization": "Basic x"}):
        for _ in range(RATE + 1):
            answer = await raw.send(http, "GET", f"{live.url}/v1/none", headers=headers)
            assert answer.status == 404
    answer = await raw.send(http, "GET", f"{live.url}/v1/models", headers=raw.bearer(key))
    assert answer.status == 200


async def test_answers_under_v1_say_what_is_left(
    live: Live, http: aiohttp.ClientSession, key: str
) -> None:
    left: list[str | None] = []
    for _ in range(RATE + 1):
        answer = await raw.send(http, "GET", f"{live.url}/v1/models", headers=raw.bearer(key))
        assert answer.headers["x-ratelimit-limit-requests"] == str(RATE)
        left.append(answer.headers["x-ratelimit-remaining-requests"])
        assert re.fullmatch(
            r"(\d+h)?(\d+m)?[\d.]+m?s", answer.headers["x-ratelimit-reset-requests"]
        )
    assert left == ["2", "1", "0", "0"]
    free = await raw.send(http, "GET", f"{live.url}/v1/models", headers=live.headers)
    assert "x-ratelimit-limit-requests" not in free.headers


async def test_a_request_knows_nothing_of_the_one_before_it_on_its_connection(
    live: Live, key: str
) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for secret in (key, live.key):  # the second waits for the first, and begins where that ends
        head = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {secret}\r\n"
        writer.write(f"{head}\r\n".encode())
    limited, free = [(await reader.readuntil(b"\r\n\r\n")).decode() for _ in range(2)]
    writer.close()
    await writer.wait_closed()
    assert "x-ratelimit-limit-requests" in limited
    assert "x-ratelimit-limit-requests" not in free


async def test_the_openai_sdk_sees_a_rate_limit(live: Live, key: str) -> None:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0) as client:
        for _ in range(RATE):
            await client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            await client.models.list()
        assert int(caught.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("name", ["http", "http-legacy", "sse", "sse-modern"])
async def test_the_mcp_sdk_sees_the_protocols_error(live: Live, key: str, name: str) -> None:
    from dataclasses import replace

    async with open_door(replace(live, key=key), name) as door:
        for _ in range(RATE):
            assert not (await door.call("kv_list", {})).is_error
        with pytest.raises(MCPError) as caught:
            await door.call("kv_list", {})
        assert caught.value.error.code == -32029
        assert caught.value.error.data["retry_after_seconds"] > 0


async def test_all_doors_and_methods_draw_on_one_budget(
    live: Live, http: aiohttp.ClientSession, key: str
) -> None:
    method, params = COUNTED["tools/call"]
    assert "result" in (await raw.modern(http, live.url, key, method, params)).message
    session = await raw.Handshake(http, live.url, key).open()
    method, params = COUNTED["resources/read"]
    assert "result" in (await session.request(method, params)).message
    async with raw.open_sse(http, live.url, key) as connection:
        method, params = COUNTED["prompts/get"]
        assert "result" in await connection.request(method, params)
        assert is_limited(await connection.request(method, params))
    check_429(await raw.send(http, "GET", f"{live.url}/v1/models", headers=raw.bearer(key)))


async def test_the_servers_rate_holds_over_stdio(live: Live) -> None:
    parameters = stdio_parameters(live)
    environment = {**(parameters.env or {}), "ISTHMUS_RATE_LIMIT": f"{RATE}/day"}
    limited = parameters.model_copy(update={"env": environment})
    async with Client(stdio_client(limited)) as client:
        for _ in range(RATE):
            assert not (await client.call_tool("kv_list", {})).is_error
        for _ in range(2):
            await client.list_tools()
            with pytest.raises(MCPError) as caught:
                await client.call_tool("kv_list", {})
            assert is_limited({"error": caught.value.error.model_dump()})


async def test_one_key_does_not_use_up_anothers_rate(
    live: Live, http: aiohttp.ClientSession, key: str
) -> None:
    other = await make_key(live, rate_limit=f"{RATE}/day")
    for _ in range(RATE + 1):
        await raw.call(http, live.url, key, "kv_list", {})
    for used, limited in ((other["key"], False), (live.key, False), (key, True)):
        answer = await raw.call(http, live.url, used, "kv_list", {})
        assert is_limited(answer.message) is limited


async def test_a_refused_write_changes_nothing(
    live: Live, http: aiohttp.ClientSession, key: str
) -> None:
    for number in range(RATE + 2):
        await raw.call(http, live.url, key, "kv_set", {"key": "limited", "value": number})
    read = await raw.call(http, live.url, live.key, "kv_get", {"key": "limited"})
    assert read.result["structuredContent"]["value"] == RATE - 1


async def test_the_window_moves_on(live: Live, http: aiohttp.ClientSession) -> None:
    key = (await make_key(live, rate_limit="2/second"))["key"]
    waits: list[float] = []
    for _ in range(6):
        message = (await raw.call(http, live.url, key, "kv_list", {})).message
        while is_limited(message):
            waits.append(message["error"]["data"]["retry_after_seconds"])
            await asyncio.sleep(waits[-1])
            message = (await raw.call(http, live.url, key, "kv_list", {})).message
        assert "result" in message
    assert 1 <= len(waits) <= 6
    assert all(0 < wait <= 1 for wait in waits)


async def test_concurrent_requests_do_not_slip_through(
    live: Live, http: aiohttp.ClientSession, key: str
) -> None:
    answers = await asyncio.gather(
        *(raw.call(http, live.url, key, "kv_list", {}) for _ in range(30))
    )
    assert sum(not is_limited(answer.message) for answer in answers) == RATE


async def test_the_servers_rate_holds_where_a_key_has_none(
    anyio_backend: object, scratch: Path, http: aiohttp.ClientSession
) -> None:
    async with open_live(scratch / "limits-all", rate_limit="2/hour") as live:
        plain = (await make_key(live))["key"]
        wide = (await make_key(live, rate_limit="50/hour"))["key"]
        for key in (plain, live.key):
            for number in range(3):
                answer = await raw.call(http, live.url, key, "kv_list", {})
                assert is_limited(answer.message) is (number == 2)
        for _ in range(5):
            answer = await raw.call(http, live.url, wide, "kv_list", {})
            assert "result" in answer.message
        # Who calls inside the process is not at a door.
        for _ in range(5):
            assert not (await live.runtime.bus.call(OWNER, "kv_list", {})).is_error
        async with http_client() as client:
            for path in ("/healthz", "/readyz"):
                for _ in range(4):
                    assert (await client.get(live.url + path)).status_code == 200
