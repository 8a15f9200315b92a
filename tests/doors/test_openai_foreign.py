"""Ids of another tenant under /v1: each is answered word for word as an id that never was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from tests.doors.fixtures import make_key
from tests.doors.live import BusDoor, Live, http_client, open_live

SAID: Any = {"role": "user", "content": "hello"}


@dataclass
class World:
    live: Live
    theirs: dict[str, str]
    stranger: httpx2.AsyncClient


@pytest.fixture(scope="module")
async def world(anyio_backend: object, scratch: Path) -> AsyncIterator[World]:
    async with (
        open_live(scratch / "foreign", llm_url=("scripted:",)) as live,
        AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as owner,
    ):
        added = await BusDoor(live).call("vector_add", {"store": "notes", "text": "Theirs."})
        assert not added.is_error, added.text
        store = added.structured["store"]
        other = await make_key(live, "read", "write", "run", tenant="stranger")
        headers = {"Authorization": f"Bearer {other['key']}"}
        async with http_client(headers) as stranger:
            yield World(live, await _made(owner) | {"STORE": store}, stranger)


async def _made(owner: AsyncOpenAI) -> dict[str, str]:
    response = await owner.responses.create(model="default", input="theirs")
    background = await owner.responses.create(model="default", input="a", background=True)
    conversation = await owner.conversations.create(items=[SAID])
    items = await owner.conversations.items.list(conversation.id)
    chat = await owner.chat.completions.create(model="default", messages=[SAID], store=True)
    file = await owner.files.create(file=("a.txt", b"theirs"), purpose="user_data")
    given = await owner.responses.input_items.list(response.id)
    return {
        "RESPONSE": response.id,
        "BACKGROUND": background.id,
        "CONVERSATION": conversation.id,
        "ITEM": str(items.data[0].id),
        "CHAT": chat.id,
        "FILE": file.id,
        "INPUT": str(given.data[0].id),
    }


def respond(**more: Any) -> tuple[str, str, Any]:
    return ("POST", "/responses", {"model": "default", "input": "mine"} | more)


def shown(content: dict[str, Any]) -> tuple[str, str, Any]:
    messages = [{"role": "user", "content": [content]}]
    return ("POST", "/chat/completions", {"model": "default", "messages": messages})


REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "/responses/RESPONSE", None),
    ("GET", "/responses/RESPONSE?stream=true", None),
    ("GET", "/responses/BACKGROUND?stream=true", None),
    ("GET", "/responses/RESPONSE/input_items", None),
    ("POST", "/responses/BACKGROUND/cancel", None),
    ("DELETE", "/responses/BACKGROUND", None),
    ("GET", "/conversations/CONVERSATION", None),
    ("POST", "/conversations/CONVERSATION", {"metadata": {}}),
    ("GET", "/conversations/CONVERSATION/items", None),
    ("POST", "/conversations/CONVERSATION/items", {"items": [SAID]}),
    ("GET", "/conversations/CONVERSATION/items/ITEM", None),
    ("DELETE", "/conversations/CONVERSATION/items/ITEM", None),
    ("DELETE", "/conversations/CONVERSATION", None),
    ("GET", "/chat/completions/CHAT", None),
    ("GET", "/chat/completions/CHAT/messages", None),
    ("GET", "/chat/completions?after=CHAT", None),
    ("POST", "/chat/completions/CHAT", {"metadata": {}}),
    ("DELETE", "/chat/completions/CHAT", None),
    ("GET", "/files/FILE", None),
    ("GET", "/files/FILE/content", None),
    ("GET", "/files?after=FILE", None),
    ("DELETE", "/files/FILE", None),
    respond(previous_response_id="RESPONSE"),
    respond(conversation="CONVERSATION"),
    respond(conversation="CONVERSATION", background=True),
    respond(input=[{"type": "item_reference", "id": "INPUT"}]),
    respond(tools=[{"type": "file_search", "vector_store_ids": ["STORE"]}]),
    respond(
        input=[{"role": "user", "content": [{"type": "input_image", "file_id": "FILE"}]}],
    ),
    ("POST", "/responses/input_tokens", {"model": "default", "previous_response_id": "RESPONSE"}),
    ("POST", "/responses/input_tokens", {"model": "default", "conversation": "CONVERSATION"}),
    shown({"type": "file", "file": {"file_id": "FILE"}}),
    shown({"type": "image_url", "image_url": {"file_id": "FILE"}}),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: f"{each[0]} {each[1]}")
async def test_a_foreign_id_is_as_one_that_never_was(
    world: World, request_: tuple[str, str, Any]
) -> None:
    theirs = await _answer(world, request_, world.theirs)
    never = {name: _turned(each) for name, each in world.theirs.items()}
    nobodys = await _answer(world, request_, never)
    assert theirs == nobodys


def _turned(name: str) -> str:
    """Give an id of the same form that nobody has."""
    head, _, tail = name.rpartition("-" if "-" in name else "_")
    digit = "0" if tail[-1] != "0" else "1"
    return f"{name[: len(head) + 1]}{tail[:-1]}{digit}"


async def _answer(
    world: World, request_: tuple[str, str, Any], names: dict[str, str]
) -> tuple[int, str]:
    method, path, body = request_

    def named(value: Any) -> Any:
        if isinstance(value, str):
            for name, given in names.items():
                value = value.replace(name, given)
            return value
        if isinstance(value, list):
            return [named(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, dict):
            return {key: named(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
        return value

    url = f"{world.live.url}/v1{named(path)}"
    answer = await world.stranger.request(method, url, json=named(body))
    text = answer.text
    if answer.status_code < 400:  # told to the model as the failure of its call
        (call,) = [item for item in answer.json()["output"] if item["type"] == "file_search_call"]
        text = f"{call['status']} {answer.json()['output'][-1]['content'][0]['text']}"
    for name, given in names.items():
        text = text.replace(given, name)
    return answer.status_code, text
