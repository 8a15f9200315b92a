"""Chats that are stored, and turns that go on in another process once the client has run its own calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.operation import Operations
from mcp_server.services.purging import purge
from tests.doors.openai_door import Door, connect, open_door

SAID: Any = [
    {"role": "system", "content": "Repeat."},
    {"role": "user", "content": [{"type": "text", "text": "one two"}]},
]
ISTHMUS: Any = {"type": "mcp", "server_label": "isthmus", "allowed_tools": ["model_list"]}
HUMAN: Any = {"type": "function", "function": {"name": "ask_human", "parameters": {}}}
MIXED = (
    "turns:\n- tool_calls: [{name: model_list}, {name: ask_human, arguments: {}}]\n- text: thanks\n"
)


@pytest.fixture
async def client(door: Door) -> AsyncIterator[AsyncOpenAI]:
    """Give a client of a tenant of its own."""
    made = await door.keys.create("chats", tenant=f"chats-{uuid4().hex[:12]}")
    async with connect(door, made["key"]) as client:
        yield client


async def ask(client: AsyncOpenAI, **more: Any) -> Any:
    request: Any = {"model": "default", "messages": SAID, "store": True}
    return await client.chat.completions.create(**request | more)


async def test_a_stored_chat_lives_from_creation_to_deletion(
    client: AsyncOpenAI, door: Door
) -> None:
    made = await ask(client, metadata={"topic": "straits"})
    chats = client.chat.completions

    found = await chats.retrieve(made.id)
    assert found.choices == made.choices
    assert found.metadata == {"topic": "straits"}
    updated = await chats.update(made.id, metadata={"topic": "canals"})
    assert updated.metadata == {"topic": "canals"}
    messages = [each async for each in chats.messages.list(made.id)]
    assert [(each.id, each.role) for each in messages] == [
        (f"{made.id}-0", "system"),
        (f"{made.id}-1", "user"),
    ]
    assert messages[0].content == "Repeat."
    assert [part.type for part in messages[1].content_parts or []] == ["text"]
    gone = await chats.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "chat.completion.deleted", True)
    for refused in (
        chats.retrieve(made.id),
        chats.update(made.id, metadata={}),
        chats.delete(made.id),
        chats.messages.list(made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await refused
    asked = door.model.requests[0]
    assert not {"store", "metadata"} & asked.keys(), "it is kept here, not at the upstream"


async def test_a_streamed_chat_is_stored_whole_under_the_id_that_was_told(
    client: AsyncOpenAI,
) -> None:
    stream = await ask(client, stream=True, n=2, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]

    found = await client.chat.completions.retrieve(chunks[0].id)
    assert [choice.message.content for choice in found.choices] == ["one two"] * 2
    assert [choice.finish_reason for choice in found.choices] == ["stop"] * 2
    assert found.usage == chunks[-1].usage


async def test_a_chat_that_is_not_stored_is_nowhere(client: AsyncOpenAI) -> None:
    made = await ask(client, store=False)
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.retrieve(made.id)
    assert (await client.chat.completions.list()).data == []


async def test_lists_are_narrowed_and_paged(client: AsyncOpenAI) -> None:
    made = [await ask(client, metadata={"n": str(n % 2), "x": "y"}) for n in range(4)]
    other = await ask(client, model="vendor/with-slash")
    ids = [each.id for each in made]
    chats = client.chat.completions

    assert [each.id async for each in chats.list(limit=2)] == [*ids, other.id]
    assert [each.id async for each in chats.list(limit=2, order="desc")] == [other.id, *ids[::-1]]
    assert [each.id async for each in chats.list(metadata={"n": "1", "x": "y"})] == ids[1::2]
    assert [each.id async for each in chats.list(model="vendor/with-slash")] == [other.id]
    page = await chats.list(limit=1, after=ids[1])
    assert ([each.id for each in page.data], page.has_more) == ([ids[2]], True)
    with pytest.raises(openai.BadRequestError) as caught:
        await chats.list(after="chatcmpl-0")
    assert caught.value.param == "after"


async def test_messages_are_paged(client: AsyncOpenAI) -> None:
    made = await ask(client)
    messages = client.chat.completions.messages

    assert [m.id async for m in messages.list(made.id, limit=1)] == [
        f"{made.id}-0",
        f"{made.id}-1",
    ]
    backwards = await messages.list(made.id, order="desc", limit=1)
    assert [m.id for m in backwards.data] == [f"{made.id}-1"]


async def test_another_tenants_chat_is_unknown(client: AsyncOpenAI, door: Door) -> None:
    made = await ask(client)
    async with connect(door) as stranger:
        with pytest.raises(openai.NotFoundError) as caught:
            await stranger.chat.completions.retrieve(made.id)
    assert caught.value.code == "not_found"


async def test_a_key_that_may_only_run_sees_what_it_made_itself(door: Door) -> None:
    tenant = f"chats-{uuid4().hex[:12]}"
    scopes = ["run:model://default"]
    first, second = [
        await door.keys.create(name, tenant=tenant, scopes=scopes) for name in ("a", "b")
    ]
    async with connect(door, first["key"]) as own, connect(door, second["key"]) as other:
        made = await ask(own)
        assert (await own.chat.completions.retrieve(made.id)).id == made.id
        with pytest.raises(openai.PermissionDeniedError):
            await other.chat.completions.retrieve(made.id)


async def test_the_chat_of_a_loop_is_stored_as_it_was_told(client: AsyncOpenAI) -> None:
    stream = await ask(client, tools=[ISTHMUS], stream=True)
    told = [chunk async for chunk in stream]

    found = await client.chat.completions.retrieve(told[0].id)
    content = "".join(chunk.choices[0].delta.content or "" for chunk in told)
    assert found.choices[0].message.content == content
    assert found.model_extra is not None
    assert found.model_extra["isthmus"]["tool_calls"][0]["name"] == "model_list"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_of_both_sides_goes_on_in_another_process(
    control: AsyncEngine, operations: Operations, tmp_path: Path, stream: bool
) -> None:
    script = tmp_path / "mixed.yaml"
    script.write_text(MIXED)
    said: list[Any] = [{"role": "user", "content": "go"}]
    async with open_door(control, operations, script=script) as door, connect(door) as client:
        message = await first_turn(client, said, stream=stream)
    (call,) = message["tool_calls"]
    said += [message, {"role": "tool", "tool_call_id": call["id"], "content": "yes"}]

    async with open_door(control, operations, script=script) as door, connect(door) as client:
        second = await ask(client, messages=said, tools=[ISTHMUS, HUMAN], store=False)
        asked = door.model.requests[0]["messages"]

    assert second.choices[0].message.content == "thanks"
    assert [each["role"] for each in asked] == ["user", "assistant", "tool", "tool"]
    names = [each["function"]["name"] for each in asked[1]["tool_calls"]]
    assert names == ["model_list", "ask_human"]
    assert [each["id"] for each in asked[1]["tool_calls"]] == [
        each["tool_call_id"] for each in asked[2:]
    ]
    assert '"scripted"' in asked[2]["content"]
    assert asked[3]["content"] == "yes"


async def first_turn(client: AsyncOpenAI, said: list[Any], *, stream: bool) -> Any:
    given: Any = {"messages": said, "tools": [ISTHMUS, HUMAN], "store": False}
    if not stream:
        answer = await ask(client, **given)
        return answer.choices[0].message.model_dump(exclude_none=True)
    chunks = [chunk async for chunk in await ask(client, **given, stream=True)]
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [call.index for call in calls] == [0, 0]
    function = {"name": calls[0].function.name, "arguments": calls[1].function.arguments}
    made = {"id": calls[0].id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [made]}


async def test_a_turn_is_recalled_by_the_key_that_made_it_and_until_it_expires(
    control: AsyncEngine, operations: Operations, tmp_path: Path
) -> None:
    script = tmp_path / "mixed.yaml"
    script.write_text(MIXED)
    said: list[Any] = [{"role": "user", "content": "go"}]
    async with open_door(control, operations, script=script) as door, connect(door) as client:
        message = await first_turn(client, said, stream=False)
        call_id = message["tool_calls"][0]["id"]
        said += [message, {"role": "tool", "tool_call_id": call_id, "content": "yes"}]
        other = await door.keys.create("other", tenant="default")
        async with connect(door, other["key"]) as stranger:
            await ask(stranger, messages=said, store=False)
        async with control.begin() as tx:
            await tx.execute(text("update kept_turns set expires_at = now()"))
        assert await purge(control, "kept_turns") >= 1
        await ask(client, messages=said, store=False)

    for request in door.model.requests[1:]:
        assert request["messages"] == said, "a turn that is not theirs stays as it was told"


async def test_what_is_stored_at_once_is_all_there(client: AsyncOpenAI) -> None:
    made = await asyncio.gather(*(ask(client) for _ in range(8)))
    listed = [each.id async for each in client.chat.completions.list(limit=3)]
    assert sorted(listed) == sorted(each.id for each in made)
