"""The object tools and resource, called over the bus."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mcp.server.subscriptions import InMemorySubscriptionBus

from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus
from mcp_server.bus_in_process import InProcess
from mcp_server.declarations import declare
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.plugins import load_plugins
from mcp_server.server import IsthmusServer
from mcp_server.services import Services
from mcp_server.services.objects import ObjectService

PIXEL = base64.b64encode(bytes(range(200, 256))).decode()


@pytest.fixture
def bus(operations: Operations, objects: ObjectService) -> Bus:
    services = cast("Services", SimpleNamespace(objects=objects))
    server = IsthmusServer(
        declare(load_plugins()),
        services,
        operations,
        secret=bytes(32),
        bus=InMemorySubscriptionBus(),
    )
    return Bus(InProcess(server))


async def call(bus: Bus, principal: Principal, tool: str, **arguments: Any) -> Any:
    result = await bus.call(principal, tool, arguments)
    assert not result.is_error, result.text
    return result.structured


async def fail(bus: Bus, principal: Principal, tool: str, **arguments: Any) -> str:
    result = await bus.call(principal, tool, arguments)
    assert result.is_error
    return result.text


async def test_an_object_goes_in_and_out_by_tool_calls(bus: Bus, principal: Principal) -> None:
    put = await call(bus, principal, "object_put", key="a/b.json", text='{"ü": 1}')
    assert put == {
        "bucket": "default",
        "key": "a/b.json",
        "id": put["id"],
        "size": 9,
        "etag": put["etag"],
        "content_type": "application/json",
    }
    assert await call(bus, principal, "object_get", key="a/b.json") == {**put, "text": '{"ü": 1}'}
    part = await call(bus, principal, "object_get", key="a/b.json", range=[2, 3])
    assert part == {**put, "text": "ü"}
    await call(bus, principal, "object_put", key="pixel.png", bucket="default", base64=PIXEL)
    listed = await call(bus, principal, "object_list", delimiter="/", limit=1)
    assert listed["items"] == [{"prefix": "a/"}]
    rest = await call(bus, principal, "object_list", delimiter="/", cursor=listed["next_cursor"])
    assert [item["key"] for item in rest["items"]] == ["pixel.png"]
    assert rest["next_cursor"] is None
    listed = await call(bus, principal, "object_list", bucket="default", prefix="a/")
    assert listed == {"items": [put], "next_cursor": None}
    assert await call(bus, principal, "object_delete", key="a/b.json") == {"deleted": True}
    assert await call(bus, principal, "object_delete", key="a/b.json") == {"deleted": False}


@pytest.mark.parametrize(
    ("tool", "arguments", "error"),
    [
        ("object_get", {"key": "nothing"}, "not_found: "),
        ("object_get", {"key": "k", "range": [0]}, "invalid_input: range"),
        ("object_get", {"key": "k", "range": [5, 9]}, "invalid_input: range"),
        ("object_get", {"key": "k", "range": "0-1"}, "invalid_input: range"),
        ("object_get", {"key": "k", "Range": [0, 1]}, "invalid_input: Range"),
        ("object_put", {"key": "k"}, "invalid_input: text"),
        ("object_put", {"key": "k", "text": "x", "base64": "eA=="}, "invalid_input: text"),
        ("object_put", {"key": "k", "base64": "eA"}, "invalid_input: base64"),
        ("object_put", {"key": "k", "text": 1}, "invalid_input: text"),
        ("object_put", {"text": "x"}, "invalid_input: key"),
        ("object_put", {"key": "../k", "text": "x"}, "invalid_input: key"),
        ("object_put", {"key": "k", "text": "x", "content_type": "x"}, "invalid_input: content_t"),
        ("object_put", {"key": "k", "text": "x", "if_none_match": "*"}, "conflict: "),
        ("object_put", {"key": "k", "text": "x", "if_match": "0"}, "conflict: etag is "),
        ("object_delete", {"key": "k", "bucket": "a/b"}, "invalid_input: bucket"),
        ("object_list", {"limit": 0}, "invalid_input: limit"),
    ],
)
async def test_a_call_that_does_not_fit_names_what_is_wrong(
    bus: Bus, principal: Principal, tool: str, arguments: dict[str, Any], error: str
) -> None:
    await call(bus, principal, "object_put", key="k", text="12345")
    assert (await fail(bus, principal, tool, **arguments)).startswith(error)
    assert (await call(bus, principal, "object_get", key="k"))["text"] == "12345"


async def test_an_object_is_a_resource_with_its_media_type(bus: Bus, principal: Principal) -> None:
    await call(bus, principal, "object_put", bucket="b", key="n/é 1.md", text="# hé")
    await call(bus, principal, "object_put", bucket="b", key="pixel.png", base64=PIXEL)
    (text,) = await bus.read(principal, "object://b/n/%C3%A9%201.md")
    assert (text.mime_type, text.text, text.blob) == ("text/markdown", "# hé", None)
    (pixel,) = await bus.read(principal, "object://b/pixel.png")
    assert (pixel.mime_type, pixel.text, pixel.blob) == ("image/png", None, PIXEL)


async def test_what_is_no_object_is_no_resource(
    bus: Bus, principal: Principal, stranger: Principal
) -> None:
    await call(bus, principal, "object_put", bucket="b", key="k", text="mine")
    for uri in ("object://b/nothing", "object://b", "object://nowhere/k"):
        with pytest.raises(NotFound):
            await bus.read(principal, uri)
    with pytest.raises(NotFound):
        await bus.read(stranger, "object://b/k")
    for uri in ("object://b/../k", "object://b/%2e%2e/k", "object://b/a%5Cb", "object://b//k"):
        with pytest.raises(InvalidInput):
            await bus.read(principal, uri)
