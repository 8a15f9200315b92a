"""Whatever goes wrong under /v1 is told in OpenAI's envelope, with all four keys and the right status."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest
from openai import AsyncOpenAI
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.errors import LimitExceeded, Timeout, Unavailable
from mcp_server.limits import Limits
from mcp_server.llm import UpstreamError
from mcp_server.operation import Operations
from tests.doors.openai_door import API_KEY, MAX_BODY, Door, open_door

AUTHORIZED = {"authorization": f"Bearer {API_KEY}"}
HELLO: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def http(door: Door) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=door.base, headers=AUTHORIZED) as http:
        yield http


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    """Check everything that all errors share."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-processing-ms"].isdigit()
    assert answer.headers["openai-version"] == "2020-10-01"
    body = answer.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]


BODIES: dict[str, tuple[bytes, int, str | None, str]] = {
    "no body": (b"", 400, None, "invalid_json"),
    "half a body": (b'{"model": "def', 400, None, "invalid_json"),
    "not UTF-8": (b'{"model": "\xff"}', 400, None, "invalid_json"),
    "too deep": (b"[" * 5000, 400, None, "invalid_json"),
    "an array": (b"[]", 400, None, "invalid_type"),
    "null": (b"null", 400, None, "invalid_type"),
    "too large": (b" " * (MAX_BODY + 1), 413, None, "request_too_large"),
}


@pytest.mark.parametrize("path", ["chat/completions", "embeddings"])
@pytest.mark.parametrize("case", BODIES)
async def test_a_body_that_cannot_be_read(http: httpx2.AsyncClient, case: str, path: str) -> None:
    content, status, param, code = BODIES[case]
    answer = await http.post(path, content=content, headers={"content-type": "application/json"})

    assert answer.status_code == status
    error = error_of(answer)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


async def test_a_body_of_unknown_length_is_bounded_too(http: httpx2.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b" " * (MAX_BODY // 8)

    answer = await http.post(
        "chat/completions", content=pieces(), headers={"content-type": "application/json"}
    )

    assert answer.status_code == 413
    assert error_of(answer)["code"] == "request_too_large"


async def test_a_body_may_come_in_pieces(http: httpx2.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in json.dumps(HELLO).encode():
            yield bytes([byte])

    answer = await http.post("chat/completions", content=pieces())

    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize("media", ["application/x-www-form-urlencoded", "text/plain"])
async def test_a_content_type_other_than_json(http: httpx2.AsyncClient, media: str) -> None:
    body = json.dumps(HELLO).encode()
    answer = await http.post("chat/completions", content=body, headers={"content-type": media})

    assert answer.status_code == 400
    assert error_of(answer)["code"] == "unsupported_content_type"


MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
USER = {"role": "user", "content": "x"}


def said(message: Any) -> dict[str, Any]:
    return {"messages": [message]}


FIELDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no model": ({"model": None}, "model", MISSING),
    "a model that is a number": ({"model": 4}, "model", TYPE),
    "no messages": ({"messages": None}, "messages", MISSING),
    "messages that are a string": ({"messages": "hello"}, "messages", TYPE),
    "an empty list of messages": ({"messages": []}, "messages", "empty_array"),
    "a message that is a string": (said("hello"), "messages[0]", TYPE),
    "a message without a role": (said({"content": "x"}), "messages[0].role", MISSING),
    "an unknown role": (said({"role": "boss", "content": "x"}), "messages[0].role", VALUE),
    "a user who says nothing": (said({"role": "user"}), "messages[0].content", MISSING),
    "a user who says a number": (said({"role": "user", "content": 1}), "messages[0].content", TYPE),
    "an assistant with nothing": (said({"role": "assistant"}), "messages[0].content", MISSING),
    "a part without a type": (
        said({"role": "user", "content": [{}]}),
        "messages[0].content[0].type",
        MISSING,
    ),
    "a text part without text": (
        said({"role": "user", "content": [{"type": "text"}]}),
        "messages[0].content[0].text",
        MISSING,
    ),
    "a tool result without its call": (
        said({"role": "tool", "content": "x"}),
        "messages[0].tool_call_id",
        MISSING,
    ),
    "a tool call without an id": (
        said({"role": "assistant", "tool_calls": [{"type": "function"}]}),
        "messages[0].tool_calls[0].id",
        MISSING,
    ),
    "arguments that are not text": (
        said(
            {
                "role": "assistant",
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {}}}],
            }
        ),
        "messages[0].tool_calls[0].function.arguments",
        TYPE,
    ),
    "a warm temperature": ({"temperature": 2.5}, "temperature", VALUE),
    "a temperature in words": ({"temperature": "hot"}, "temperature", TYPE),
    "half a choice": ({"n": 1.5}, "n", TYPE),
    "no choice": ({"n": 0}, "n", VALUE),
    "no tokens": ({"max_tokens": 0}, "max_tokens", VALUE),
    "a boolean number of tokens": ({"max_completion_tokens": True}, "max_completion_tokens", TYPE),
    "a stream in words": ({"stream": "yes"}, "stream", TYPE),
    "stream options in words": ({"stream_options": "usage"}, "stream_options", TYPE),
    "usage in words": (
        {"stream_options": {"include_usage": "yes"}},
        "stream_options.include_usage",
        TYPE,
    ),
    "a stop that is a number": ({"stop": 1}, "stop", TYPE),
    "a stop in a list that is a number": ({"stop": ["a", 1]}, "stop[1]", TYPE),
    "tools in words": ({"tools": "all"}, "tools", TYPE),
    "a tool without a type": ({"tools": [{}]}, "tools[0].type", MISSING),
    "an unknown kind of tool": (
        {"tools": [{"type": "web_search"}]},
        "tools[0].type",
        "unsupported_value",
    ),
    "a function without a name": (
        {"tools": [{"type": "function", "function": {}}]},
        "tools[0].function.name",
        MISSING,
    ),
    "a function with a bad name": (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "tools[0].function.name",
        VALUE,
    ),
    "parameters in words": (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": "none"}}]},
        "tools[0].function.parameters",
        TYPE,
    ),
    "an unknown tool choice": ({"tool_choice": "any"}, "tool_choice", VALUE),
    "a tool choice that is a list": ({"tool_choice": []}, "tool_choice", TYPE),
    "a choice of a tool that is not there": (
        {"tool_choice": {"type": "function", "function": {"name": "gone"}}},
        "tool_choice.function.name",
        VALUE,
    ),
    "an unknown response format": (
        {"response_format": {"type": "xml"}},
        "response_format.type",
        VALUE,
    ),
    "a schema without a name": (
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format.json_schema.name",
        MISSING,
    ),
    "metadata that is not text": ({"metadata": {"a": 1}}, "metadata.a", TYPE),
    "too much metadata": ({"metadata": {str(i): "" for i in range(17)}}, "metadata", VALUE),
}


@pytest.mark.parametrize("case", FIELDS)
async def test_a_field_that_does_not_fit_is_named(http: httpx2.AsyncClient, case: str) -> None:
    more, param, code = FIELDS[case]
    answer = await http.post("chat/completions", json=HELLO | more)

    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


ACCEPTED: dict[str, dict[str, Any]] = {
    "nulls": {"temperature": None, "tools": None, "stream": None, "metadata": None, "stop": None},
    "roles": {
        "messages": [
            {"role": "developer", "content": "x"},
            {"role": "system", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "function", "name": "f", "content": None},
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        ]
    },
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "hello"},
                    {"type": "image_url", "image_url": {"url": "data:,"}},
                ],
            }
        ]
    },
    "integers for decimals": {"temperature": 0, "top_p": 1, "presence_penalty": -2},
}


@pytest.mark.parametrize("case", ACCEPTED)
async def test_what_clients_really_send_is_accepted(http: httpx2.AsyncClient, case: str) -> None:
    answer = await http.post("chat/completions", json=HELLO | ACCEPTED[case])

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", ["chat/completions", "embeddings", "models", "models/default"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Basic abc", "wrong"])
async def test_no_key_opens_nothing(door: Door, path: str, header: str | None) -> None:
    headers = {"authorization": header} if header is not None else {}
    method = "GET" if path.startswith("models") else "POST"
    async with httpx2.AsyncClient(base_url=door.base, headers=headers) as http:
        answer = await http.request(method, path)

    assert answer.status_code == 401
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")


async def test_a_revoked_key_opens_nothing(door: Door) -> None:
    made = await door.keys.create("short", tenant="door-errors")
    await door.keys.revoke(made["id"])
    headers = {"authorization": f"Bearer {made['key']}"}
    async with httpx2.AsyncClient(base_url=door.base, headers=headers) as http:
        answer = await http.post("chat/completions", json=HELLO)

    assert answer.status_code == 401
    assert error_of(answer)["code"] == "invalid_api_key"


async def test_a_key_that_may_not_run_is_forbidden(door: Door) -> None:
    made = await door.keys.create("reader", tenant="door-errors", scopes=["read"])
    headers = {"authorization": f"Bearer {made['key']}"}
    async with httpx2.AsyncClient(base_url=door.base, headers=headers) as http:
        chat = await http.post("chat/completions", json=HELLO)
        embed = await http.post("embeddings", json={"model": "default", "input": "x"})

    for answer in (chat, embed):
        assert answer.status_code == 403
        assert error_of(answer)["code"] == "insufficient_permissions"
    assert door.model.requests == []
    assert door.embedder.texts == []


async def test_a_key_for_one_model_runs_only_that(door: Door) -> None:
    made = await door.keys.create("one", tenant="door-errors", scopes=["run:model://scripted"])
    headers = {"authorization": f"Bearer {made['key']}"}
    async with httpx2.AsyncClient(base_url=door.base, headers=headers) as http:
        allowed = await http.post("chat/completions", json=HELLO | {"model": "scripted"})
        refused = await http.post("chat/completions", json=HELLO | {"model": "vendor/with-slash"})

    assert (allowed.status_code, refused.status_code) == (200, 403)


async def test_an_unknown_model_is_named(http: httpx2.AsyncClient) -> None:
    answer = await http.post("chat/completions", json=HELLO | {"model": "gpt-9"})

    assert answer.status_code == 404
    error = error_of(answer)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "gpt-9" in error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/"),
        ("GET", "/nothing"),
        ("POST", "/fine_tuning/jobs"),
        ("GET", "/assistants"),
        ("POST", "/threads"),
        ("DELETE", "/chat/completions/x/y"),
        ("PROPFIND", "/x/y"),
        ("POST", "/chat/completions/"),
        ("GET", "/models/line%0Abreak"),
    ],
)
async def test_an_unknown_path_is_told_back(
    http: httpx2.AsyncClient, door: Door, method: str, path: str
) -> None:
    answer = await http.request(method, door.base + path)

    assert answer.status_code == 404
    error = error_of(answer)
    assert error["message"] == f"Invalid URL ({method} /v1{unquote(path)})"
    assert (error["type"], error["code"]) == ("invalid_request_error", "unknown_url")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "chat/completions", "GET, HEAD, POST"),
        ("DELETE", "chat/completions/x/messages", "GET, HEAD"),
        ("GET", "completions", "POST"),
        ("PUT", "embeddings", "POST"),
        ("POST", "models", "GET, HEAD"),
        ("DELETE", "models/default", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(
    http: httpx2.AsyncClient, method: str, path: str, allow: str
) -> None:
    answer = await http.request(method, path)

    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    assert error_of(answer)["code"] == "method_not_allowed"


async def test_a_used_up_rate_says_when_to_come_back(
    control: AsyncEngine, operations: Operations
) -> None:
    async with open_door(control, operations, limits=Limits("2/minute")) as door:
        async with httpx2.AsyncClient(base_url=door.base, headers=AUTHORIZED) as http:
            assert (await http.post("chat/completions", json=HELLO)).status_code == 200
            assert (await http.get("models")).status_code == 200
            answer = await http.post("embeddings", json={"model": "default", "input": "x"})

    assert answer.status_code == 429
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert 1 <= int(answer.headers["retry-after-ms"]) <= 60_000


async def test_the_sdk_waits_as_it_is_told(control: AsyncEngine, operations: Operations) -> None:
    async with open_door(control, operations, limits=Limits("1/second")) as door:
        async with AsyncOpenAI(base_url=door.base, api_key=API_KEY, max_retries=5) as client:
            for _ in range(3):
                assert [model.id async for model in client.models.list()]


FAILURES: dict[str, tuple[Exception, int, dict[str, Any]]] = {
    "the upstream is away": (
        Unavailable("no upstream answers"),
        503,
        {"message": "no upstream answers", "type": "server_error", "code": "unavailable"},
    ),
    "the upstream is slow": (
        Timeout("no answer in time"),
        504,
        {"message": "no answer in time", "type": "server_error", "code": "timeout"},
    ),
    "the upstream refuses": (
        UpstreamError(
            422,
            {"message": "too long", "type": "tokens", "param": "messages", "code": "x"},
            upstream="u",
        ),
        422,
        {"message": "too long", "type": "tokens", "param": "messages", "code": "x"},
    ),
    "the upstream is busy": (
        UpstreamError(429, {"message": "busy"}, upstream="u", retry_after=7),
        429,
        {"message": "busy", "type": "rate_limit_error", "code": None},
    ),
    "the upstream does not know our key": (
        UpstreamError(401, {"message": "wrong key sk-sec***"}, upstream="u"),
        502,
        {"type": "server_error", "code": "upstream_refused"},
    ),
    "a budget is used up": (
        LimitExceeded("no more tokens this month"),
        429,
        {"message": "no more tokens this month", "code": "rate_limit_exceeded"},
    ),
    "a defect": (
        ZeroDivisionError("secret inside"),
        500,
        {"type": "server_error", "code": "internal"},
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", FAILURES)
async def test_a_failing_model_is_told_with_its_status(
    http: httpx2.AsyncClient,
    door: Door,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    case: str,
    stream: bool,
) -> None:
    failure, status, expected = FAILURES[case]

    async def fail(_: Any) -> Any:
        raise failure

    monkeypatch.setattr(door.model.inner, "_answer", fail)
    with caplog.at_level(logging.ERROR):
        answer = await http.post("chat/completions", json=HELLO | {"stream": stream})

    assert answer.status_code == status
    error = error_of(answer)
    assert expected.items() <= error.items()
    assert "sk-sec" not in answer.text
    assert "secret inside" not in answer.text
    if isinstance(failure, ZeroDivisionError):
        assert answer.headers["x-request-id"] in caplog.text
        assert "secret inside" in caplog.text
    if case == "the upstream is busy":
        assert answer.headers["retry-after"] == "7"
    if case == "a budget is used up":
        assert answer.headers["x-should-retry"] == "false"
