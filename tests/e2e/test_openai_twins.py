"""Two servers on one database: whatever is made through one is at once usable through the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI, NotFoundError

from tests.doors import raw
from tests.e2e.processes import ServeProcess, serve

KEY = "sk-twins-owner-of-the-default-tenant"
MODEL = "scripted"


@dataclass(frozen=True)
class Twin:
    """One of the two, as both kinds of clients see it."""

    url: str
    openai: AsyncOpenAI
    http: aiohttp.ClientSession

    async def tool(self, name: str, /, **arguments: Any) -> Any:
        """Call a tool over MCP and return what it gives."""
        reply = await raw.call(self.http, self.url, KEY, name, arguments)
        result = reply.result
        assert not result["isError"], result
        return result["structuredContent"]


@pytest.fixture(scope="module")
async def twins(anyio_backend: object, scratch: Path) -> AsyncIterator[tuple[Twin, Twin]]:
    async with AsyncExitStack() as stack:
        made: list[Twin] = []
        http = await stack.enter_async_context(raw.open_http())
        for _ in range(2):
            process: ServeProcess = stack.enter_context(serve(scratch / "twins", API_KEY=KEY))
            client = AsyncOpenAI(base_url=f"{process.url}/v1", api_key=KEY, max_retries=0)
            made.append(Twin(process.url, await stack.enter_async_context(client), http))
        yield made[0], made[1]


async def test_a_stored_chat(twins: tuple[Twin, Twin]) -> None:
    one, other = twins
    made = await one.openai.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello."}], store=True
    )
    kept = await other.openai.chat.completions.retrieve(made.id)
    assert kept.choices == made.choices
    await other.openai.chat.completions.update(made.id, metadata={"read": "yes"})
    again = await one.openai.chat.completions.retrieve(made.id)
    assert again.metadata == {"read": "yes"}


async def test_a_chain_of_responses(twins: tuple[Twin, Twin]) -> None:
    one, other = twins
    first = await one.openai.responses.create(model=MODEL, input="Hello.")
    second = await other.openai.responses.create(
        model=MODEL, input="And again.", previous_response_id=first.id
    )
    third = await one.openai.responses.create(
        model=MODEL, input="And once more.", previous_response_id=second.id
    )
    assert (await other.openai.responses.retrieve(third.id)).previous_response_id == second.id
    items = (await other.openai.responses.input_items.list(third.id, order="asc")).data
    assert "And once more." in json.dumps([item.to_dict() for item in items])


async def test_a_conversation(twins: tuple[Twin, Twin]) -> None:
    one, other = twins
    made = await one.openai.conversations.create(metadata={"topic": "twins"})
    await other.openai.responses.create(model=MODEL, input="Hello.", conversation=made.id)
    items = (await one.openai.conversations.items.list(made.id)).data
    assert [item.type for item in items] == ["message", "message"]


async def test_a_file_and_an_object(twins: tuple[Twin, Twin]) -> None:
    one, other = twins
    made = await one.openai.files.create(file=("a.txt", b"twins"), purpose="user_data")
    assert (await other.openai.files.content(made.id)).content == b"twins"
    got = await other.tool("object_get", bucket="files", key=made.id)
    assert (got["size"], got["text"]) == (5, "twins")
    await other.openai.files.delete(made.id)
    assert made.id not in {each.id for each in (await one.openai.files.list()).data}


async def test_keys_rows_and_documents(twins: tuple[Twin, Twin]) -> None:
    one, other = twins
    await one.tool("kv_set", key="twin", value="seen")
    assert (await other.tool("kv_get", key="twin"))["value"] == "seen"
    await one.tool("sql_execute", sql="create table twins (n int)")
    await one.tool("sql_execute", sql="insert into twins values (1)")
    assert (await other.tool("sql_query", sql="select n from twins"))["rows"] == [[1]]
    await one.tool("vector_add", store="twins", text="The fox jumps over the dog.")
    found = await other.tool("vector_search", store="twins", query="Who jumps?")
    assert "fox" in json.dumps(found)


async def test_an_agent_and_its_run(twins: tuple[Twin, Twin]) -> None:
    one, other = twins
    await one.tool("agent_save", name="twin", instructions="Answer.", model=MODEL)
    answer = await other.openai.chat.completions.create(
        model="agent/twin", messages=[{"role": "user", "content": "Hello."}]
    )
    assert answer.choices[0].message.content
    begun = await other.openai.responses.create(model=MODEL, input="Go on.", background=True)
    async with asyncio.timeout(30):
        while (await one.openai.responses.retrieve(begun.id)).status != "completed":
            await asyncio.sleep(0.05)
    run = await one.tool("run_get", run=begun.id.replace("resp_", "run_"))
    assert run["status"] == "completed"


async def test_a_vector_store_of_a_file(twins: tuple[Twin, Twin]) -> None:
    one, other = twins
    file = await one.openai.files.create(
        file=("fox.txt", b"The quick fox jumps."), purpose="assistants"
    )
    store = await other.openai.vector_stores.create(name="twins", file_ids=[file.id])
    async with asyncio.timeout(60):
        while (await one.openai.vector_stores.retrieve(store.id)).file_counts.completed != 1:
            await asyncio.sleep(0.05)
    found = await one.openai.vector_stores.search(store.id, query="Who jumps?")
    assert [(each.file_id, each.filename) for each in found.data] == [(file.id, "fox.txt")]
    assert "fox" in json.dumps(
        await other.tool("vector_search", store=store.id, query="Who jumps?")
    )
    await other.openai.vector_stores.delete(store.id)
    with pytest.raises(NotFoundError):
        await one.openai.vector_stores.retrieve(store.id)


async def test_an_upload_in_parts(twins: tuple[Twin, Twin]) -> None:
    one, other = twins
    upload = await one.openai.uploads.create(
        filename="parts.txt", bytes=10, mime_type="text/plain", purpose="assistants"
    )
    parts = [
        await client.openai.uploads.parts.create(upload.id, data=data)
        for client, data in ((other, b"first"), (one, b"-last"))
    ]
    done = await other.openai.uploads.complete(upload.id, part_ids=[part.id for part in parts])
    assert done.file is not None
    assert (await one.openai.files.content(done.file.id)).content == b"first-last"
