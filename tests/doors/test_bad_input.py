"""What no client should send, and what no plugin should do: the protocol's own error, and the server lives on."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.doors import raw
from tests.doors.fixtures import PLUGIN, until
from tests.doors.live import Live, open_door, open_live

MAX_BODY = 256 * 1024
CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "bad-input", plugins=(PLUGIN,), max_body_bytes=MAX_BODY) as live:
        yield live


@pytest.fixture
async def http(live: Live) -> AsyncIterator[aiohttp.ClientSession]:
    """A client; after each test the server answers as ever."""
    async with raw.open_http() as http:
        yield http
        answer = await raw.call(http, live.url, live.key, "kv_list", {"prefix": "nothing"})
        assert answer.result["structuredContent"] == {"items": [], "next_cursor": None}


@pytest.fixture
def defects() -> None:
    """For tests that plant defects: the log may tell of them."""


@pytest.fixture(autouse=True)
def no_defect(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Any:
    """No request may reach the last handler of all, which logs and answers 500."""
    yield
    if "defects" not in request.fixturenames:
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert [record.getMessage() for record in errors] == []


def check_clean(reply: raw.Reply) -> None:
    assert reply.status != 500, reply
    for inside in ("Traceback", "site-packages", 'File "', "the inside of the server"):
        assert inside not in reply.body, reply.body[:2000]


def error_of(reply: raw.Reply) -> dict[str, Any]:
    check_clean(reply)
    body = json.loads(reply.body)
    assert body["jsonrpc"] == "2.0"
    assert isinstance(body["error"]["message"], str)
    return body["error"]


# --- raw bodies --------------------------------------------------------------------------------

NESTED = "[" * 100_000 + "]" * 100_000
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"jsonrpc":"2.0","id":1,"method":"tools/li',
    "words": b"hello",
    "not UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
    "deep": NESTED.encode(),
    "a number": b"1",
    "null": b"null",
    "a string": b'"tools/list"',
    "an empty array": b"[]",
    "a batch": json.dumps([raw.modern_request("tools/list"), raw.modern_request("ping")]).encode(),
    "no method": b'{"jsonrpc":"2.0","id":1}',
    "method is a number": b'{"jsonrpc":"2.0","id":1,"method":1}',
    "another version": b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}',
    "no version": b'{"id":1,"method":"tools/list"}',
    "params are a list": b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}',
    "id is an object": b'{"jsonrpc":"2.0","id":{},"method":"tools/list"}',
    "id is a list": b'{"jsonrpc":"2.0","id":[1],"method":"tools/list"}',
    "id is a boolean": b'{"jsonrpc":"2.0","id":true,"method":"tools/list"}',
    "id is NaN": b'{"jsonrpc":"2.0","id":NaN,"method":"tools/list"}',
    "id is huge": b'{"jsonrpc":"2.0","id":%s,"method":"tools/list"}' % (b"9" * 5000),
    "an answer": b'{"jsonrpc":"2.0","id":1,"result":{}}',
    "NUL": b"\0",
    "a BOM": b"\xef\xbb\xbf{}",
}
# The SDK takes an id of a wrong kind for no id at all, and the message for a notification; an answer
# to a question that nobody asked is dropped too.
UNASKED = {"an answer", "id is an object", "id is a list", "id is a boolean", "id is NaN"}
PARSE = {"nothing", "half", "words", "not UTF-8", "deep", "NUL"}


@pytest.mark.parametrize("case", BODIES)
async def test_a_bad_body_at_mcp(live: Live, http: aiohttp.ClientSession, case: str) -> None:
    headers = raw.modern_headers(live.key, "tools/list")
    answer = await raw.send(http, "POST", f"{live.url}/mcp", data=BODIES[case], headers=headers)
    error = error_of(answer)
    assert answer.status == 400
    assert error["code"] in ({-32700} if case in PARSE else {-32700, -32600, -32602}), error


@pytest.mark.parametrize("case", BODIES)
async def test_a_bad_body_in_a_session(live: Live, http: aiohttp.ClientSession, case: str) -> None:
    session = await raw.Handshake(http, live.url, live.key).open()
    answer = await session.post(BODIES[case])
    if case in UNASKED:
        assert answer.status == 202
    else:
        assert answer.status == 400, answer
        assert error_of(answer)["code"] in {-32700, -32600, -32602}
    assert (await session.request("ping")).result == {}


@pytest.mark.parametrize("case", BODIES)
async def test_a_bad_body_at_messages(live: Live, http: aiohttp.ClientSession, case: str) -> None:
    async with raw.open_sse(http, live.url, live.key) as session:
        answer = await session.post(BODIES[case])
        check_clean(answer)
        assert answer.status == (202 if case in UNASKED else 400), answer
        assert (await session.request("ping"))["result"] == {}


@pytest.mark.parametrize("case", sorted(BODIES))
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
async def test_a_bad_body_at_v1(
    live: Live, http: aiohttp.ClientSession, case: str, path: str
) -> None:
    headers = {**raw.bearer(live.key), "Content-Type": "application/json"}
    answer = await raw.send(http, "POST", f"{live.url}{path}", data=BODIES[case], headers=headers)
    check_clean(answer)
    assert answer.status == 400
    assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}


PLACES = ["/mcp", "/messages/?session_id=" + "0" * 32, CHAT]


@pytest.mark.parametrize("how", ["declared", "in pieces", "declared falsely"])
@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize("era", [raw.MODERN, raw.HANDSHAKE, None])
async def test_an_oversized_body(
    live: Live, http: aiohttp.ClientSession, path: str, how: str, era: str | None
) -> None:
    headers = {**raw.bearer(live.key), "Accept": raw.BOTH, "Content-Type": "application/json"}
    if era is not None:
        headers["MCP-Protocol-Version"] = era
    big = b" " * (MAX_BODY + 1)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(big), 10_000):
            yield big[at : at + 10_000]

    body: Any = pieces() if how == "in pieces" else big
    if how == "declared falsely":
        status, text = await half_a_request(live, path, headers)
        assert status == 413
    else:
        answer = await raw.send(http, "POST", f"{live.url}{path}", data=body, headers=headers)
        check_clean(answer)
        assert answer.status == 413
        text = answer.body
    error = json.loads(text)["error"]
    assert "MAX_BODY_BYTES" in error["message"]
    if path == CHAT:
        assert error["code"] == "request_too_large"
    else:
        assert error["code"] == -32600


async def half_a_request(
    live: Live, path: str, headers: dict[str, str], length: str = "99999999999"
) -> tuple[int, str]:
    """Declare a body and send none of it."""
    host = live.url.removeprefix("http://")
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return await exchange(live, ("\r\n".join(lines) + "\r\n\r\n").encode())


async def exchange(live: Live, request: bytes) -> tuple[int, str]:
    """Send exactly these bytes; return the status and the body."""
    host, _, port = live.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(5):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = [
                int(line.split(":")[1])
                for line in head.lower().split("\r\n")
                if line.startswith("content-length:")
            ]
            body = await reader.readexactly(length[0]) if length else await reader.read(2000)
    finally:
        writer.close()
    return int(head.split()[1]), body.decode()


@pytest.mark.parametrize(
    "length", ["-1", "x", "1e3", "9" * 5000, "0x10", "1, 2", "\xb2", "18446744073709551616"]
)
async def test_a_length_that_is_no_length(
    live: Live, http: aiohttp.ClientSession, length: str
) -> None:
    status, body = await half_a_request(live, "/mcp", raw.modern_headers(live.key, "ping"), length)
    assert status in {400, 413}
    assert "Traceback" not in body


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/9.9",
        b"\x16\x03\x01\x02",
        b"GET",
        b"G\0T /mcp HTTP/1.1",
        b"POST /mcp HTTP/1.1\r\nA",
    ],
)
async def test_bytes_that_are_no_http(
    live: Live, http: aiohttp.ClientSession, request_line: bytes
) -> None:
    status, body = await exchange(live, request_line + b"\r\n\r\n")
    assert status in {400, 421}
    assert "Traceback" not in body


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "", None]
)
@pytest.mark.parametrize("era", [raw.MODERN, raw.HANDSHAKE])
async def test_a_content_type_other_than_json(
    live: Live, http: aiohttp.ClientSession, media: str | None, era: str
) -> None:
    headers = {**raw.modern_headers(live.key, "tools/list"), "MCP-Protocol-Version": era}
    headers.pop("Content-Type")
    if media is not None:
        headers["Content-Type"] = media
    body = json.dumps(raw.modern_request("tools/list")).encode()
    async with http.post(
        f"{live.url}/mcp", data=body, headers=headers, skip_auto_headers=["Content-Type"]
    ) as got:
        answer = raw.Reply(got.status, {}, await got.text())
    assert answer.status == 400
    assert "Content-Type: application/json" in error_of(answer)["message"]


# --- headers -----------------------------------------------------------------------------------

HEADERS: dict[str, tuple[dict[str, str | None], int, int]] = {
    "no version": ({"MCP-Protocol-Version": None}, 400, -32600),
    "another version than the envelope's": ({"MCP-Protocol-Version": "2030-01-01"}, 400, -32020),
    "version of the other era": ({"MCP-Protocol-Version": raw.HANDSHAKE}, 400, -32600),
    "no method": ({"Mcp-Method": None}, 400, -32020),
    "another method": ({"Mcp-Method": "tools/list"}, 400, -32020),
    "no name": ({"Mcp-Name": None}, 400, -32020),
    "another name": ({"Mcp-Name": "kv_set"}, 400, -32020),
    "no accept": ({"Accept": "text/html"}, 406, -32600),
    "accepts only JSON": ({"Accept": "application/json"}, 406, -32600),
    "accepts only a stream": ({"Accept": "text/event-stream"}, 406, -32600),
    "unknown session": (
        {"MCP-Protocol-Version": raw.HANDSHAKE, "Mcp-Session-Id": "0" * 32}, 404, -32600,
    ),
    "endless session": (
        {"MCP-Protocol-Version": raw.HANDSHAKE, "Mcp-Session-Id": "0" * 9000}, 404, -32600,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
async def test_headers_that_do_not_fit(live: Live, http: aiohttp.ClientSession, case: str) -> None:
    changes, status, code = HEADERS[case]
    params = {"name": "kv_get", "arguments": {"key": "x"}}
    headers = {**raw.modern_headers(live.key, "tools/call", params), **changes}
    answer = await raw.send(
        http,
        "POST",
        f"{live.url}/mcp",
        json=raw.modern_request("tools/call", params),
        headers={name: value for name, value in headers.items() if value is not None},
    )
    check_clean(answer)
    assert answer.status == status, answer
    assert error_of(answer)["code"] == code


@pytest.mark.parametrize("name", ["MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"])
async def test_a_routing_header_twice(live: Live, http: aiohttp.ClientSession, name: str) -> None:
    params = {"name": "kv_get", "arguments": {"key": "x"}}
    headers = raw.modern_headers(live.key, "tools/call", params)
    answer = await raw.send(
        http,
        "POST",
        f"{live.url}/mcp",
        json=raw.modern_request("tools/call", params),
        headers=[*headers.items(), (name, headers[name])],
    )
    assert answer.status == 400
    assert error_of(answer)["code"] in {-32020, -32022}


META_WRONG: dict[str, Any] = {
    "none": None,
    "a list": [],
    "empty": {},
    "no capabilities": {"io.modelcontextprotocol/protocolVersion": raw.MODERN},
    "no version": {"io.modelcontextprotocol/clientCapabilities": {}},
    "another version": {**raw.META, "io.modelcontextprotocol/protocolVersion": raw.HANDSHAKE},
    "a version to come": {**raw.META, "io.modelcontextprotocol/protocolVersion": "2030-01-01"},
    "version is a number": {**raw.META, "io.modelcontextprotocol/protocolVersion": 1},
}


@pytest.mark.parametrize("case", META_WRONG)
async def test_an_envelope_that_does_not_fit(
    live: Live, http: aiohttp.ClientSession, case: str
) -> None:
    meta = META_WRONG[case]
    headers = raw.modern_headers(live.key, "tools/list")
    if case == "a version to come":
        headers["MCP-Protocol-Version"] = meta["io.modelcontextprotocol/protocolVersion"]
    answer = await raw.send(
        http,
        "POST",
        f"{live.url}/mcp",
        json=raw.request("tools/list", {"_meta": meta}),
        headers=headers,
    )
    assert answer.status == 400
    assert error_of(answer)["code"] in {-32602, -32020, -32022}


@pytest.mark.parametrize(
    "method", ["tools/none", "initialize", "ping", "logging/setLevel", "", "\0", "x" * 9000]
)
async def test_an_unknown_method(live: Live, http: aiohttp.ClientSession, method: str) -> None:
    headers = raw.modern_headers(live.key, "x")
    headers["Mcp-Method"] = method.replace("\0", "")
    answer = await raw.send(
        http, "POST", f"{live.url}/mcp", json=raw.modern_request(method), headers=headers
    )
    assert (answer.status, error_of(answer)["code"]) in {(404, -32601), (400, -32020)}


async def test_an_unknown_method_in_a_session(live: Live, http: aiohttp.ClientSession) -> None:
    session = await raw.Handshake(http, live.url, live.key).open()
    for method in ("tools/none", "server/nothing", "\0", "x" * 9000):
        answer = await session.request(method)
        check_clean(answer)
        assert answer.error["code"] == -32601, method


async def test_a_session_that_never_shook_hands_serves_nothing(
    live: Live, http: aiohttp.ClientSession
) -> None:
    session = raw.Handshake(http, live.url, live.key)
    answer = await session.request("tools/list")
    assert answer.status == 400
    assert error_of(answer)["code"] == -32600


# --- values ------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


VALUES: dict[str, tuple[str, bool]] = {
    "half a pair": ('"\\ud800"', False),
    "the other half": ('"x\\udfffx"', False),
    "half a pair as a key": ('{"\\ud800": 1}', False),
    "a whole pair": ('"\\ud83d\\ude00"', True),
    "NUL": ('"a\\u0000b"', True),
    "NUL as a key": ('{"\\u0000": "\\u0000"}', True),
    "a deep value": (nested(100), True),
    "too deep a value": (nested(129), False),
    "far too deep a value": (nested(190), False),
    "a huge whole number": ("9" * 4000, True),
    "a small fraction": ("1e-320", True),
    "a large fraction": ("1.7976931348623157e308", True),
    "beyond a double": ("1e400", False),
}


def set_body(value: str) -> bytes:
    body = json.dumps(
        raw.modern_request(
            "tools/call", {"name": "kv_set", "arguments": {"key": "odd", "value": "@"}}
        )
    )
    return body.replace('"@"', value).encode()


@pytest.mark.parametrize("case", VALUES)
async def test_what_is_stored_can_be_read_at_every_door(
    live: Live, http: aiohttp.ClientSession, case: str
) -> None:
    text, fits = VALUES[case]
    params = {"name": "kv_set", "arguments": {}}
    headers = raw.modern_headers(live.key, "tools/call", params)
    answer = await raw.send(http, "POST", f"{live.url}/mcp", data=set_body(text), headers=headers)
    check_clean(answer)
    assert answer.status == 200
    assert answer.result["isError"] is not fits, answer.body[:500]
    if not fits:
        assert raw.text_of(answer.result).startswith("invalid_input: ")
        return
    for name in ("bus", "http", "http-legacy", "sse", "chat"):
        async with open_door(live, name) as door:
            read = await door.call("kv_get", {"key": "odd"})
            assert read.structured["value"] == json.loads(text), name


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "9" * 5000, "1" * 200_000])
async def test_numbers_that_json_has_not(
    live: Live, http: aiohttp.ClientSession, text: str
) -> None:
    params = {"name": "kv_set", "arguments": {}}
    headers = raw.modern_headers(live.key, "tools/call", params)
    answer = await raw.send(http, "POST", f"{live.url}/mcp", data=set_body(text), headers=headers)
    check_clean(answer)
    if answer.status == 200:
        assert raw.text_of(answer.result).startswith("invalid_input: ")
    else:
        assert (answer.status, answer.error["code"]) == (400, -32700)
    session = await raw.Handshake(http, live.url, live.key).open()
    again = await session.post(set_body(text))
    check_clean(again)


ODD_STRINGS = {"NUL": "a\0b", "half a pair": "a\ud800b", "control": "\x1b[2J", "bidi": "\u202e",
               "long": "x" * 20_000, "empty": "", "percent": "%00%2e%2e/", "blank": " "}  # fmt: skip


@pytest.mark.parametrize("case", ODD_STRINGS)
async def test_odd_strings_in_every_argument(
    live: Live, http: aiohttp.ClientSession, case: str
) -> None:
    """Each text argument of each tool, and each tool's name: never a defect, always an answer."""
    text = ODD_STRINGS[case]
    for tool in live.runtime.server.declared_tools.values():
        if tool.fn.__module__.startswith("isthmus_plugins_"):
            continue
        properties: dict[str, Any] = tool.parameters.get("properties", {})
        every = {name: text for name, schema in properties.items() if _takes_text(schema)}
        for arguments in (every, *({n: text} for n in every)):
            params = {"name": tool.name, "arguments": arguments}
            answer = await raw.send(
                http,
                "POST",
                f"{live.url}/mcp",
                json=raw.modern_request("tools/call", params),
                headers=raw.modern_headers(live.key, "tools/call", params),
            )
            check_clean(answer)
            assert answer.status == 200, (tool.name, arguments, answer)
            said = raw.text_of(answer.result)
            assert not said.startswith(("unavailable", "timeout")), (tool.name, arguments, said)


def _takes_text(schema: dict[str, Any]) -> bool:
    kinds = [schema, *schema.get("anyOf", [])]
    return any(kind.get("type") == "string" for kind in kinds)


@pytest.mark.parametrize("case", ODD_STRINGS)
async def test_odd_strings_in_names_and_uris(
    live: Live, http: aiohttp.ClientSession, case: str
) -> None:
    text = ODD_STRINGS[case]
    asked: list[tuple[str, dict[str, Any]]] = [
        ("tools/call", {"name": text}),
        ("prompts/get", {"name": text}),
        ("prompts/get", {"name": "odd_prompt", "arguments": {text: "x"}}),
        ("resources/read", {"uri": text}),
        *(
            ("resources/read", {"uri": f"{kind}://{text}/{text}"})
            for kind in ("sql", "kv", "object", "vector", "agent", "run", "model", "odd", "none")
        ),
        ("resources/read", {"uri": f"sql://main/{text}"}),
        ("completion/complete", {
            "ref": {"type": "ref/prompt", "name": text}, "argument": {"name": text, "value": text},
        }),
    ]  # fmt: skip
    session = await raw.Handshake(http, live.url, live.key).open()
    for method, params in asked:
        headers = raw.modern_headers(live.key, method, None)
        names = [params[name] for name in ("name", "uri") if name in params]
        if names:
            headers["Mcp-Name"] = _header_value(names[0])
        answer = await raw.send(
            http,
            "POST",
            f"{live.url}/mcp",
            json=raw.modern_request(method, params),
            headers=headers,
        )
        check_clean(answer)
        assert answer.status in {200, 400, 404}, (method, params, answer)
        if case != "half a pair":  # which no client of the handshake era can send
            again = await session.request(method, params)
            check_clean(again)
            assert again.status == 200
            if "error" in again.message:
                assert again.error["code"] in {-32602, -32603}, (method, params, again)


def _header_value(text: str) -> str:
    """A header carries visible ASCII; the protocol encodes the rest."""
    import base64

    if text and text.isascii() and text.isprintable() and text == text.strip():
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode()}?="


# --- hosts, origins, paths, methods ------------------------------------------------------------

ROUTES = [("GET", "/mcp"), ("POST", "/mcp"), ("DELETE", "/mcp"), ("GET", "/sse"), ("POST", "/messages/"),
          ("GET", "/v1/models"), ("POST", CHAT), ("POST", "/v1/embeddings"), ("GET", "/v1/unknown"),
          ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/"), ("GET", "/nowhere")]  # fmt: skip
FOREIGN: dict[str, tuple[dict[str, str], int]] = {
    "a foreign host": ({"Host": "evil.example.com"}, 421),
    "a host that looks local": ({"Host": "localhost.evil.example.com"}, 421),
    "a host with a path": ({"Host": "127.0.0.1/x?#"}, 421),
    "half an address": ({"Host": "[::1"}, 421),
    "a foreign origin": ({"Origin": "http://evil.example.com"}, 403),
    "the null origin": ({"Origin": "null"}, 403),
    "an origin in half": ({"Origin": "http://[::1"}, 403),
    "an origin without a scheme": ({"Origin": "localhost"}, 403),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_foreign_host_or_origin_reaches_no_route(
    live: Live, http: aiohttp.ClientSession, case: str, method: str, path: str
) -> None:
    headers, status = FOREIGN[case]
    answer = await raw.send(
        http, method, f"{live.url}{path}", headers={**raw.bearer(live.key), **headers}
    )
    check_clean(answer)
    assert answer.status == status
    body = json.loads(answer.body)
    if path.startswith("/v1"):
        assert set(body["error"]) == {"message", "type", "param", "code"}
    elif path in {"/mcp", "/sse", "/messages/"}:
        assert body["error"]["code"] == -32600
    else:
        assert body["error"] == "forbidden"


async def test_two_hosts_or_none_reach_no_route(live: Live, http: aiohttp.ClientSession) -> None:
    own = live.url.removeprefix("http://")
    for head in ("", f"Host: {own}\r\nHost: {own}\r\n", f"Host: {own}\r\nHost: evil.com\r\n"):
        status, _ = await exchange(live, f"GET /healthz HTTP/1.1\r\n{head}\r\n".encode())
        assert status in {400, 421}, head


SMUGGLED = ["//mcp", "/mcp/", "/MCP", "/%6dcp/", "/./mcp", "/x/../mcp", "/%2e/mcp", "/%2e%2e/mcp", "/mcp;x", "/mcp%00",
            "/mcp%2f", "/mcp%20", "/mcp\\", "/mcp/%2e", "/messages", "//messages/", "/sse/", "/SSE", "/sse/x", "/v1//models",
            "/V1/models", "//v1/models", "/v1/%2e%2e/mcp", "/v1/../mcp", "/healthz/", "/healthz/../mcp", "/readyz/mcp",
            "http://127.0.0.1/mcp", "/.well-known/oauth-protected-resource", "/docs", "/openapi.json/", "/v1", "/v1/"]  # fmt: skip


@pytest.mark.parametrize("path", SMUGGLED)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_other_spelling_of_a_path_opens_a_door(
    live: Live, http: aiohttp.ClientSession, path: str, method: str
) -> None:
    host = live.url.removeprefix("http://")
    body = json.dumps(raw.modern_request("tools/list"))
    head = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    headers = raw.modern_headers(None, "tools/list")
    head += [f"{name}: {value}" for name, value in headers.items()]
    status, text = await exchange(live, ("\r\n".join(head) + "\r\n\r\n" + body).encode())
    # A redirect to the right spelling is no harm: there a key is asked for.
    assert status in {307, 400, 401, 404}, (status, text)
    assert "tools" not in text.replace("/tools", "")
    if status == 404 and not path.startswith("/v1"):
        assert set(json.loads(text)) == {"error", "message"}


WRONG_METHODS = [("PUT", "/mcp", "DELETE, GET, POST"), ("HEAD", "/mcp", "DELETE, GET, POST"), ("OPTIONS", "/mcp", "DELETE, GET, POST"),
                 ("POST", "/sse", "GET"), ("HEAD", "/sse", "GET"), ("GET", "/messages/", "POST"), ("POST", "/healthz", "GET, HEAD"),
                 ("DELETE", "/v1/models", "GET, HEAD"), ("GET", "/v1/embeddings", "POST"), ("TRACE", "/mcp", "DELETE, GET, POST")]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "allow"), WRONG_METHODS)
async def test_a_method_that_a_path_has_not(
    live: Live, http: aiohttp.ClientSession, method: str, path: str, allow: str
) -> None:
    answer = await raw.send(http, method, f"{live.url}{path}", headers=raw.bearer(live.key))
    check_clean(answer)
    assert answer.status == 405
    assert answer.headers["allow"] == allow
    if method == "HEAD":
        return
    body = json.loads(answer.body)
    if path in {"/mcp", "/sse", "/messages/"}:
        assert body["error"]["code"] == -32600
    elif path.startswith("/v1"):
        assert body["error"]["code"] == "method_not_allowed"
    else:
        assert body["error"] == "invalid_input"


@pytest.mark.parametrize(
    "query", ["", "?session_id=", "?session_id=x", "?session_id=" + "0" * 32, "?session_id=%00"]
)
async def test_messages_without_a_session(
    live: Live, http: aiohttp.ClientSession, query: str
) -> None:
    answer = await raw.send(
        http,
        "POST",
        f"{live.url}/messages/{query}",
        json=raw.request("ping"),
        headers=raw.bearer(live.key),
    )
    check_clean(answer)
    assert answer.status in {400, 404}


# --- plugins -----------------------------------------------------------------------------------

DOORS = ["bus", "http", "http-legacy", "sse", "sse-modern", "chat"]


@pytest.mark.usefixtures("defects")
@pytest.mark.parametrize("how", ["raise", "refuse", "exit", "interrupt", "cancel", "group"])
@pytest.mark.parametrize("name", DOORS)
async def test_a_tool_that_fails_in_any_way(
    live: Live, http: aiohttp.ClientSession, name: str, how: str
) -> None:
    async with open_door(live, name) as door, asyncio.timeout(20):
        answer = await door.call("fail", {"how": how})
        assert answer.is_error
        if how == "refuse":
            assert answer.text == "conflict: as announced"
        else:
            assert answer.text == "unavailable: fail failed unexpectedly; the server's log says why"
        assert not (await door.call("kv_list", {"prefix": "nothing"})).is_error


GARBAGE = [
    "nothing",
    "object",
    "object inside",
    "bytes",
    "surrogate",
    "surrogate key",
    "deep",
    "list",
]


@pytest.mark.usefixtures("defects")
@pytest.mark.parametrize("name", DOORS)
async def test_a_tool_that_returns_garbage(
    live: Live, http: aiohttp.ClientSession, name: str
) -> None:
    from mcp.shared.exceptions import MCPError

    async with open_door(live, name) as door, asyncio.timeout(30):
        for tool, what in [
            *(("give", w) for w in GARBAGE),
            ("say", "surrogate"),
            ("say", "nothing"),
        ]:
            try:
                answer = await door.call(tool, {"what": what})
            except MCPError as error:
                assert error.error.code == -32603
                text = error.error.message
            else:
                assert answer.is_error, (what, answer)
                text = answer.text
            assert text.startswith("unavailable: "), (what, text)
            assert not (await door.call("kv_list", {"prefix": "nothing"})).is_error
        # Chat's tool results are what the tool returns, and a text is not JSON there.
        if name != "chat":
            assert (await door.call("say", {"what": "nul"})).text == "a\0b"
            assert len((await door.call("say", {"what": "long"})).text) == 400_000


@pytest.mark.usefixtures("defects")
@pytest.mark.parametrize("name", [name for name in DOORS if name != "chat"])
async def test_resources_that_fail(live: Live, http: aiohttp.ClientSession, name: str) -> None:
    async with open_door(live, name) as door, asyncio.timeout(20):
        assert (await door.read("odd://x")).text == "x is fine"
        assert (await door.read("odd://refuse")).text == "conflict: as announced"
        for kind in ("raise", "exit", "object"):
            answer = await door.read(f"odd://{kind}")
            assert answer.is_error
            assert answer.text.startswith(f"unavailable: reading odd://{kind} failed"), answer


@pytest.mark.usefixtures("defects")
async def test_prompts_and_completions_that_fail(live: Live, http: aiohttp.ClientSession) -> None:
    session = await raw.Handshake(http, live.url, live.key).open()

    async def ask(method: str, params: dict[str, Any]) -> list[raw.Reply]:
        modern = await raw.modern(http, live.url, live.key, method, params)
        return [modern, await session.request(method, params)]

    async def prompt(**arguments: str) -> list[raw.Reply]:
        return await ask("prompts/get", {"name": "odd_prompt", "arguments": arguments})

    for answer in await prompt(kind="x"):
        assert answer.result["messages"][0]["content"]["text"] == "x is fine"
    for arguments, code, text in (
        ({"kind": "raise"}, -32603, "unavailable: prompt odd_prompt failed unexpectedly"),
        ({"kind": "exit"}, -32603, "unavailable: prompts/get failed unexpectedly"),
        ({"kind": "surrogate"}, -32603, "unavailable: the answer cannot be sent"),
        ({"kind": "refuse"}, -32602, "conflict: as announced"),
        ({}, -32602, "invalid_input: prompt odd_prompt: Missing required arguments"),
        ({"kind": "x", "more": "y"}, -32602, "invalid_input: more: prompt odd_prompt has no such"),
    ):
        for answer in await prompt(**arguments):
            check_clean(answer)
            assert answer.error["code"] == code, (arguments, answer)
            assert answer.error["message"].startswith(text), answer

    reference = {"type": "ref/prompt", "name": "odd_prompt"}
    for answer in await ask(
        "completion/complete", {"ref": reference, "argument": {"name": "kind", "value": "raise"}}
    ):
        check_clean(answer)
        assert answer.error["code"] == -32603
    for answer in await ask(
        "completion/complete", {"ref": reference, "argument": {"name": "kind", "value": ""}}
    ):
        assert len(answer.result["completion"]["values"]) == 4


@pytest.mark.parametrize("name", DOORS)
async def test_a_tool_that_floods_progress_starves_nobody(
    live: Live, http: aiohttp.ClientSession, name: str
) -> None:
    """Others are served in the meantime, whether the client wants the progress or not."""
    async with open_door(live, name) as door:
        flooding = asyncio.create_task(door.call("flood", {"count": 10_000_000}))
        try:
            for _ in range(5):
                async with asyncio.timeout(20):
                    await raw.call(http, live.url, live.key, "kv_get", {"key": "x"})
            assert not flooding.done()
        finally:
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)


async def test_a_client_that_does_not_read_its_flood_harms_only_itself(
    live: Live, http: aiohttp.ClientSession
) -> None:
    params = {
        "name": "flood",
        "arguments": {"count": 10_000_000},
        "_meta": {**raw.META, "progressToken": "p"},
    }
    async with http.post(
        f"{live.url}/mcp",
        json=raw.modern_request("tools/call", params),
        headers=raw.modern_headers(live.key, "tools/call", params),
    ) as unread:
        assert unread.status == 200
        for _ in range(20):
            async with asyncio.timeout(20):
                await raw.call(http, live.url, live.key, "kv_get", {"key": "x"})


async def test_many_tools_that_never_return_hold_up_nobody(
    live: Live, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    records = [tmp_path / str(number) for number in range(50)]
    calls = [
        asyncio.create_task(
            raw.call(http, live.url, live.key, "wait", {"record": str(record), "seconds": 3600})
        )
        for record in records
    ]
    try:
        await until(lambda: all(record.exists() for record in records), 20, "all have started")
        async with asyncio.timeout(5):
            answer = await raw.call(http, live.url, live.key, "kv_list", {"prefix": "nothing"})
        assert not answer.result["isError"]
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await until(
        lambda: all("cancelled" in record.read_text() for record in records), 5, "all have ended"
    )
