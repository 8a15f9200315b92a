"""What vector stores refuse, and how they say it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, InvalidInput
from mcp_server.operation import Operations
from mcp_server.services.vectors import VectorService
from mcp_server.services.vectors.content import MAX_TEXT_BYTES
from mcp_server.storage.vectors import VectorEngine
from tests.contract.vectors.hashed_words import HashedWords
from tests.contract.vectors.reading import found


@pytest.mark.parametrize("arguments", [{}, {"document": "d", "filter": {}}])
async def test_a_delete_needs_exactly_one_of_document_and_filter(
    vectors: VectorService, principal: Principal, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match="either document or filter"):
        await vectors.delete(principal, "s", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "text: it is empty"),
        ({"text": " \n\u3000"}, "text: it is empty"),
        ({"text": "a\0b"}, r"text: the character U\+0000 at 1 cannot be stored; remove it"),
        ({"text": "é\ud800"}, r"text: the character U\+D800 at 1"),
        ({"text": "é" * (MAX_TEXT_BYTES // 2 + 1)}, "2097154 bytes are more than the 2097152"),
        ({"metadata": {"a": "\0"}}, r"metadata: the character U\+0000"),
        ({"metadata": {"a\0": 1}}, r"metadata: the character U\+0000"),
        ({"metadata": {"a": float("inf")}}, "not JSON"),
        ({"metadata": {"a": "x" * 20_000}}, "bytes of JSON are more than the 16384"),
        ({"document": ""}, "document: it is empty"),
        ({"document": "a\nb"}, "document: the character"),
        ({"store": "a/b"}, "store: 'a/b' holds a /"),
        ({"store": ""}, "store: '' is not a name"),
        ({"store": "a b"}, "store: 'a b' is not a name"),
    ],
)
async def test_what_cannot_be_stored_is_refused(
    vectors: VectorService, principal: Principal, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        await vectors.add(principal, **_arguments({"text": "text"}, arguments))


async def test_metadata_nested_without_end_is_refused(
    vectors: VectorService, principal: Principal
) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidInput, match="metadata: it is nested deeper than 16"):
        await vectors.add(principal, "s", "text", metadata={"a": deep})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": " "}, "query: it is empty"),
        ({"query": "x" * 40_000}, "query: 40000 characters"),
        ({"query": "a\0"}, "query: the character"),
        ({"k": 0}, "k: 0 is not within 1-100"),
        ({"k": 101}, "k: 101 is not within 1-100"),
        ({"mode": "fuzzy"}, "mode: 'fuzzy' is not one of hybrid, dense, text"),
        ({"filter": {"type": "like"}}, "filter.type: 'like'"),
    ],
)
async def test_a_malformed_search_is_refused(
    vectors: VectorService, principal: Principal, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        await vectors.search(principal, **_arguments({"query": "text"}, arguments))


async def test_vectors_of_two_models_are_never_mixed(
    vectors: VectorService,
    principal: Principal,
    operations: Operations,
    control: AsyncEngine,
    engine: VectorEngine,
) -> None:
    await vectors.add(principal, "s", "text", document="d")
    for other in (HashedWords("another"), HashedWords(dimensions=32)):
        changed = VectorService(operations, control, engine, other)
        with pytest.raises(Conflict, match="fill a new store"):
            await changed.add(principal, "s", "more text", document="e")
        with pytest.raises(Conflict, match="fill a new store"):
            await changed.search(principal, "s", "text")
        assert found(await changed.search(principal, "s", "text", mode="text")) == ["d"]
        assert (await changed.list(principal, "s"))["items"][0]["document"] == "d"


def _arguments(own: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    return {"store": "s"} | own | given
