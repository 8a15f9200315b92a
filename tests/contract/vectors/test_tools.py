"""The vector tools and the resource as a client calls them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mcp.server.subscriptions import InMemorySubscriptionBus
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus
from mcp_server.bus_in_process import InProcess
from mcp_server.declarations import declare
from mcp_server.errors import NotFound
from mcp_server.fetch import Fetcher
from mcp_server.operation import Operations
from mcp_server.plugins import load_plugins
from mcp_server.server import IsthmusServer
from mcp_server.services.ingest import IngestService
from mcp_server.services.objects import ObjectService
from mcp_server.services.vectors import VectorService
from mcp_server.storage.objects.file import open_file_store
from tests.contract.vectors.reading import LONG


@pytest.fixture
async def bus(
    vectors: VectorService, operations: Operations, control: AsyncEngine, data_dir: Path
) -> AsyncIterator[Bus]:
    async with open_file_store(data_dir) as blobs:
        objects = ObjectService(operations, control, blobs)
        ingest = IngestService(operations, control, objects, vectors, Fetcher())
        services: Any = SimpleNamespace(vectors=vectors, objects=objects, ingest=ingest)
        server = IsthmusServer(
            declare(load_plugins()),
            services,
            operations,
            secret=bytes(32),
            bus=InMemorySubscriptionBus(),
        )
        yield Bus(InProcess(server))


async def call(bus: Bus, principal: Principal, tool: str, **arguments: Any) -> Any:
    result = await bus.call(principal, tool, arguments)
    return result.text if result.is_error else result.structured


async def test_the_four_tools_do_one_round(bus: Bus, principal: Principal) -> None:
    text = "Pelicans nest on the rocky island."
    added = await call(
        bus, principal, "vector_add", store="birds", text=text, document="p", metadata={"n": 1}
    )
    assert added == {"store": "birds", "document": "p", "chunks": 1}
    found = await call(bus, principal, "vector_search", store="birds", query="rocky island")
    assert [result["document"] for result in found["results"]] == ["p"]
    listed = await call(bus, principal, "vector_list", store="birds")
    assert listed["items"][0]["metadata"] == {"n": 1}
    one = {"type": "eq", "key": "n", "value": 1}
    assert await call(bus, principal, "vector_delete", store="birds", filter=one) == {"deleted": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"url": "http://127.0.0.1/a"},
            "invalid_input: url: 127.0.0.1 is not on the public internet",
        ),
        ({}, "invalid_input: text: give text, object or url"),
        ({"text": "a", "object": "b/c"}, "invalid_input: text: give text, object or url"),
        ({"object": "nobucket"}, "invalid_input: object: 'nobucket' is not BUCKET/KEY"),
        ({"object": "default/absent"}, "not_found: object 'absent'"),
        ({"object": "default/image.png"}, "object: image/png is of no kind that can be read"),
        ({"object": "default/nul.txt"}, "object: it is no text: it holds U+0000 at character 1"),
        ({"object": "default/big.txt"}, "text: 2097153 bytes are more than the 2097152"),
        ({"text": "a", "colour": "red"}, "invalid_input: colour: "),
    ],
)
async def test_what_cannot_be_added_is_refused_with_the_mend(
    bus: Bus, principal: Principal, arguments: dict[str, Any], message: str
) -> None:
    for key, content in [("image.png", "iVBORw0="), ("nul.txt", "YQBi")]:
        put = {"key": key, "base64": content}
        await call(bus, principal, "object_put", **put)
    await call(bus, principal, "object_put", key="big.txt", text="x" * 2_097_153)
    assert message in await call(bus, principal, "vector_add", store="s", **arguments)


async def test_a_stored_text_is_indexed_under_its_name(bus: Bus, principal: Principal) -> None:
    await call(bus, principal, "object_put", bucket="docs", key="a/guide.md", text=LONG)
    added = await call(bus, principal, "vector_add", store="s", object="docs/a/guide.md")
    assert added["document"] == "docs/a/guide.md"
    found = await call(bus, principal, "vector_search", store="s", query="topic7", k=1)
    best = found["results"][0]
    assert LONG[best["start"] : best["end"]] == best["text"]
    await call(bus, principal, "object_put", bucket="files", key="file-abc", text="by its id")
    added = await call(
        bus, principal, "vector_add", store="s", object="file-abc", document="own name"
    )
    assert added["document"] == "own name"


async def test_a_document_is_a_resource(
    bus: Bus, principal: Principal, stranger: Principal
) -> None:
    metadata = {"lang": "中文"}
    for name, uri in [("plain", "plain"), ("a/b c", "a%2Fb%20c"), ("名", "%E5%90%8D")]:
        await call(
            bus, principal, "vector_add", store="s", text=LONG, document=name, metadata=metadata
        )
        [content] = await bus.read(principal, f"vector://s/{uri}")
        shown = json.loads(content.text or "")
        assert content.mime_type == "application/json"
        assert (shown["document"], shown["text"], shown["metadata"]) == (name, LONG, metadata)
        with pytest.raises(NotFound):
            await bus.read(stranger, f"vector://s/{uri}")


async def test_a_repeated_step_adds_one_document(bus: Bus, principal: Principal) -> None:
    for _ in range(2):
        await bus.call(principal, "vector_add", {"store": "s", "text": "once"}, key="step-1")
    assert len((await call(bus, principal, "vector_list", store="s"))["items"]) == 1


async def test_progress_reaches_the_caller(bus: Bus, principal: Principal) -> None:
    heard: list[float] = []

    async def hear(done: float, total: float | None, message: str | None) -> None:
        heard.append(done)

    arguments = {"store": "s", "text": LONG * 12}
    await bus.call(principal, "vector_add", arguments, progress=hear)
    assert heard[:2] == [32, 64]
