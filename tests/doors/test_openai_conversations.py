"""Conversations as OpenAI's own client uses them, through two processes' worth of doors on one database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import OWNER
from mcp_server.operation import Operations
from mcp_server.services.conversations import ConversationService
from tests.doors.openai_door import Door, connect, open_door

HELLO: Any = {"type": "message", "role": "user", "content": "Hello!"}


@pytest.fixture(scope="module")
async def door(control: AsyncEngine, operations: Operations) -> AsyncIterator[Door]:
    async with open_door(control, operations) as door:
        yield door


@pytest.fixture(scope="module")
async def other_door(control: AsyncEngine, operations: Operations) -> AsyncIterator[Door]:
    """Nothing is shared with the first one but the database."""
    async with open_door(control, operations) as door:
        yield door


@pytest.fixture
async def client(door: Door) -> AsyncIterator[AsyncOpenAI]:
    async with connect(door) as client:
        yield client


async def test_a_conversation_lives_from_creation_to_deletion(client: AsyncOpenAI) -> None:
    made = await client.conversations.create(metadata={"topic": "straits"}, items=[HELLO])
    assert made.id.startswith("conv_")
    assert (made.object, made.metadata) == ("conversation", {"topic": "straits"})
    assert await client.conversations.retrieve(made.id) == made
    updated = await client.conversations.update(made.id, metadata={"topic": "canals"})
    assert (updated.metadata, updated.created_at) == ({"topic": "canals"}, made.created_at)
    gone = await client.conversations.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)
    for refused in (
        client.conversations.retrieve(made.id),
        client.conversations.delete(made.id),
        client.conversations.items.create(made.id, items=[HELLO]),
    ):
        with pytest.raises(openai.NotFoundError, match="not found"):
            await refused


async def test_pages_of_items_follow_each_other_in_either_order(client: AsyncOpenAI) -> None:
    made = await client.conversations.create()
    for start in (0, 20):
        added = await client.conversations.items.create(
            made.id, items=[HELLO | {"content": str(number)} for number in range(start, start + 20)]
        )
        assert len(added.data) == 20
        assert added.has_more is False
    forwards = client.conversations.items.list(made.id, limit=7, order="asc")
    backwards = client.conversations.items.list(made.id, limit=9)
    texts = [text(item) async for item in forwards]
    assert texts == [str(number) for number in range(40)]
    assert [text(item) async for item in backwards] == texts[::-1]


def text(item: Any) -> str:
    (part,) = item.content
    return part.text


async def test_items_of_every_kind_come_back_with_an_id_that_tells_their_kind(
    client: AsyncOpenAI,
) -> None:
    given: list[Any] = [
        HELLO,
        {"role": "assistant", "content": "Hi."},
        {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "3"},
        {"type": "reasoning", "id": "rs_own", "summary": []},
    ]
    made = await client.conversations.create(items=given)
    items = [item async for item in client.conversations.items.list(made.id, order="asc")]
    prefixes = [str(item.id).partition("_")[0] for item in items]
    assert prefixes == ["msg", "msg", "fc", "fco", "rs"]
    for item in items:
        item_id = str(item.id)
        found = await client.conversations.items.retrieve(item_id, conversation_id=made.id)
        assert found == item
    left = await client.conversations.items.delete("rs_own", conversation_id=made.id)
    assert left.id == made.id
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.retrieve("rs_own", conversation_id=made.id)


async def test_results_of_a_search_are_shown_to_who_asks_for_them(client: AsyncOpenAI) -> None:
    search: Any = {
        "type": "file_search_call",
        "id": "fs_1",
        "queries": ["isthmus"],
        "status": "completed",
        "results": [{"file_id": "file-1", "filename": "a.txt", "score": 0.5, "text": "land"}],
    }
    made = await client.conversations.create(items=[search])
    plain = await client.conversations.items.retrieve("fs_1", conversation_id=made.id)
    asked = await client.conversations.items.retrieve(
        "fs_1", conversation_id=made.id, include=["file_search_call.results"]
    )
    assert plain.to_dict()["results"] is None
    assert asked.to_dict()["results"]


async def test_what_one_process_writes_the_other_sees_at_once(door: Door, other_door: Door) -> None:
    async with connect(door) as one, connect(other_door) as other:
        made = await one.conversations.create(items=[HELLO])
        assert (await other.conversations.retrieve(made.id)).id == made.id
        (added,) = (
            await other.conversations.items.create(made.id, items=[HELLO | {"content": "there"}])
        ).data
        newest = await one.conversations.items.list(made.id, limit=1)
        assert [text(item) for item in newest.data] == ["there"]
        await one.conversations.items.delete(str(added.id), conversation_id=made.id)
        assert [text(item) async for item in other.conversations.items.list(made.id)] == ["Hello!"]
        await other.conversations.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await one.conversations.retrieve(made.id)


BAD: dict[str, tuple[Any, str]] = {
    "too many items": ({"items": [HELLO] * 21}, "items"),
    "no list": ({"items": "Hello!"}, "items"),
    "an unknown type": ({"items": [{"type": "hologram"}]}, "items[0].type"),
    "a message without role": ({"items": [HELLO, {"type": "message"}]}, "items[1].role"),
    "a reference": ({"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0].type"),
    "a number for an id": ({"items": [HELLO | {"id": 7}]}, "items[0].id"),
    "metadata that is no text": ({"metadata": {"a": 1}}, "metadata.a"),
    "too much metadata": ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_does_not_fit_is_refused_by_name(client: AsyncOpenAI, case: str) -> None:
    body, param = BAD[case]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.post("/conversations", body=body, cast_to=object)
    assert refused.value.param == param


async def test_unknown_cursors_and_repeated_ids_are_refused(client: AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[HELLO | {"id": "msg_own"}])
    with pytest.raises(openai.BadRequestError) as cursor:
        await client.conversations.items.list(made.id, after="msg_nowhere")
    assert cursor.value.param == "after"
    with pytest.raises(openai.BadRequestError, match="msg_own"):
        await client.conversations.items.create(made.id, items=[HELLO | {"id": "msg_own"}])
    with pytest.raises(openai.BadRequestError) as missing:
        await client.post(f"/conversations/{made.id}/items", body={}, cast_to=object)
    assert (missing.value.param, missing.value.code) == ("items", "missing_required_parameter")


async def test_a_conversation_that_a_response_holds_answers_409_until_then(
    control: AsyncEngine, operations: Operations, client: AsyncOpenAI
) -> None:
    made = await client.conversations.create()
    elsewhere = ConversationService(operations, control)
    async with elsewhere.holding(OWNER, made.id, "resp_1"):
        with pytest.raises(openai.ConflictError) as refused:
            await client.conversations.items.create(made.id, items=[HELLO])
        assert (refused.value.code, refused.value.param) == ("conversation_locked", "conversation")
    await client.conversations.items.create(made.id, items=[HELLO])


async def make_key(door: Door, tenant: str, *scopes: str) -> str:
    return (await door.keys.create("test", tenant=tenant, scopes=scopes))["key"]


async def test_keys_reach_what_their_tenant_and_scopes_allow(door: Door) -> None:
    stranger = await make_key(door, "strangers", "read", "write", "run")
    reader = await make_key(door, "default", "read")
    async with (
        connect(door) as owner,
        connect(door, stranger) as foreign,
        connect(door, reader) as reading,
    ):
        made = await owner.conversations.create(items=[HELLO | {"id": "msg_1"}])
        for refused in (
            foreign.conversations.retrieve(made.id),
            foreign.conversations.items.retrieve("msg_1", conversation_id=made.id),
            foreign.conversations.delete(made.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await refused
        assert (await reading.conversations.retrieve(made.id)).id == made.id
        for refused in (
            reading.conversations.create(),
            reading.conversations.update(made.id, metadata={}),
            reading.conversations.delete(made.id),
            reading.conversations.items.create(made.id, items=[HELLO]),
            reading.conversations.items.delete("msg_1", conversation_id=made.id),
        ):
            with pytest.raises(openai.PermissionDeniedError):
                await refused
