"""Agents that search vector stores: those of their definition, with the caller's rights, so that they can cite."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from mcp_server.auth.principal import Principal
from tests.doors.live import BusDoor, Live, open_live, serving
from tests.doors.odd_model import OddModel

DOCUMENTS = {
    "ferry plan": "The ferry to the lighthouse leaves from the old harbour at nine every morning.",
    "bakery/menu": "The bakery sells rye bread, plum cake and coffee until noon.",
    "library": "The library is closed on Mondays and lends books for three weeks.",
}
FOUND = ("vector://town/ferry%20plan", "vector://town/bakery%2Fmenu", "vector://town/library")


@dataclass
class World:
    live: Live
    odd: OddModel

    @property
    def bus(self) -> BusDoor:
        return BusDoor(self.live)

    async def save(self, **fields: Any) -> None:
        given = {"name": "guide", "instructions": "", "model": "odd", "stores": ["town"]}
        saved = await self.bus.call("agent_save", given | fields)
        assert not saved.is_error, saved.text

    async def search(self, principal: Principal | None = None, **arguments: Any) -> Any:
        """Have the agent search, and return the result that its model read."""
        step = {"tool": "search_documents", "arguments": arguments}
        given = {
            "agent": "guide",
            "input": json.dumps({"steps": [step], "say": "well"}),
        }
        who = principal or Principal("default", "owner", frozenset({"read", "write", "run"}))
        done = await self.live.runtime.bus.call(who, "agent_run", given)
        assert done.structured is not None, done.text
        assert done.structured["status"] == "completed", done.text
        return self.odd.requests[-1]["messages"][-1]["content"]


@pytest.fixture(scope="module")
async def world(anyio_backend: object, scratch: Path) -> AsyncIterator[World]:
    odd = OddModel()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(odd.app))
        urls = (f"{upstream}/v1", "gguf:")
        live = await stack.enter_async_context(open_live(scratch / "stores", llm_url=urls))
        world = World(live, odd)
        for document, text in DOCUMENTS.items():
            given = {"store": "town", "document": document, "text": text}
            await world.bus.call("vector_add", given | {"metadata": {"letters": len(document)}})
        secret = {"store": "vault", "document": "safe", "text": "The ferry captain's code is 4711."}
        await world.bus.call("vector_add", secret)
        yield world


async def test_an_agent_finds_passages_of_its_own_stores_only_with_an_address_to_cite(
    world: World,
) -> None:
    await world.save()
    told = json.loads(await world.search(query="when does the ferry leave"))
    assert {passage["source"] for passage in told["results"]} <= set(FOUND)
    best = told["results"][0]
    assert (best["document"], best["store"]) == ("ferry plan", "town")
    assert best["text"] == DOCUMENTS["ferry plan"]
    assert (best["start"], best["end"]) == (0, len(best["text"]))
    cited = json.loads((await world.bus.read(best["source"])).text)
    assert cited["text"] == best["text"]
    (function,) = [tool["function"] for tool in world.odd.requests[-1]["tools"]]
    assert function["name"] == "search_documents"
    assert "town" in function["description"]
    assert "vault" not in json.dumps(world.odd.requests[-1])
    await world.save(stores=["town", "vault"])
    told = json.loads(await world.search(query="the ferry captain's code", limit=2))
    assert len(told["results"]) == 2
    assert "vector://vault/safe" in {passage["source"] for passage in told["results"]}


async def test_a_search_may_be_narrowed(world: World) -> None:
    await world.save()
    narrow = {"type": "eq", "key": "letters", "value": len("library")}
    told = json.loads(await world.search(query="ferry", filter=narrow))
    assert [passage["document"] for passage in told["results"]] == ["library"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "invalid_input: query: give a text"),
        ({"query": " "}, "invalid_input: query: give a text"),
        ({"query": 5}, "invalid_input: query: give a text"),
        ({"query": "a", "limit": 0}, "invalid_input: limit: 0 is no whole number within 1-50"),
        ({"query": "a", "limit": True}, "invalid_input: limit: True is no whole number"),
        ({"query": "a", "limit": 51}, "invalid_input: limit: 51"),
        ({"query": "a", "filter": ["b"]}, "invalid_input: filter: give an object"),
        ({"query": "a", "filter": {"type": "like"}}, "invalid_input: "),
        ({"query": "a", "store": "vault"}, "invalid_input: store: search_documents takes query"),
    ],
)
async def test_a_search_that_does_not_fit_is_told(
    world: World, arguments: dict[str, Any], told: str
) -> None:
    await world.save()
    assert (await world.search(**arguments)).startswith(told)


async def test_a_search_has_the_rights_of_who_runs_the_agent(world: World) -> None:
    await world.save(stores=["town", "vault"])
    of_town = frozenset({"run", "read:vector://town/*"})
    poor = Principal("default", "poor", of_town)
    assert (await world.search(poor, query="ferry")).startswith("forbidden: ")
    await world.save()
    assert "ferry plan" in await world.search(poor, query="ferry")
    none = Principal("default", "none", frozenset({"run"}))
    said = await world.search(none, query="ferry")
    assert said.startswith("not_found: there is no tool 'search_documents'")
    assert "tools" not in world.odd.requests[-1]


async def test_a_store_that_is_gone_is_told(world: World) -> None:
    gone = {"store": "gone", "document": "d", "text": "soon away"}
    await world.bus.call("vector_add", gone)
    await world.save(stores=["gone"])
    await world.bus.call("vector_store_delete", {"store": "gone"})
    assert (await world.search(query="away")).startswith("not_found: ")


async def test_the_embedded_model_answers_from_a_store_with_a_citation(world: World) -> None:
    schema = {
        "type": "object",
        "properties": {
            "source": {"enum": list(FOUND)},
            "answer": {"type": "string", "maxLength": 120},
        },
        "required": ["source", "answer"],
        "additionalProperties": False,
    }
    models = (await world.bus.call("model_list", {})).structured["items"]
    (embedded,) = [model["id"] for model in models if model["id"] != "odd"]
    await world.save(
        name="cites",
        model=embedded,
        instructions="Answer from the documents, and name your source.",
        limits={"turns": 3},
        output_schema=schema,
    )
    async with AsyncOpenAI(base_url=f"{world.live.url}/v1", api_key=world.live.key) as client:
        answer = await client.chat.completions.create(
            model="agent/cites",
            messages=[
                {"role": "user", "content": "Search the documents: when does the ferry leave?"}
            ],
            max_tokens=200,
        )
    listed = (await world.bus.call("run_list", {"agent": "cites"})).structured["items"]
    done = {"run": listed[0]["run"], "output": answer.choices[0].message.content}
    said = json.loads(done["output"])
    assert set(said) == {"source", "answer"}
    told = (await world.bus.call("run_events", {"run": done["run"]})).structured["items"]
    results = [event for event in told if event["type"] == "tool_finished"]
    assert results
    assert results[0]["name"] == "search_documents"
    found = {passage["source"] for passage in json.loads(results[0]["text"])["results"]}
    assert said["source"] in found
    cited = json.loads((await world.bus.read(said["source"])).text)
    assert cited["text"] in DOCUMENTS.values()
