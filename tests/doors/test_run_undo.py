"""What a run wrote is taken back at once: whatever can be, by whoever may, and the rest is named with its reason."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mcp_server.auth.principal import OWNER
from mcp_server.services import run_undo
from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live, serving
from tests.doors.odd_model import OddModel

TOOLS = ["kv_set", "kv_delete", "object_put", "vector_add", "sql_execute"]


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(OddModel().app))
        opened = open_live(scratch / "undoing", llm_url=(f"{upstream}/v1",))
        live = await stack.enter_async_context(opened)
        agents = live.runtime.services.agents
        common: dict[str, Any] = {"instructions": "x", "model": "odd"}
        await agents.save(OWNER, "writer", tools=TOOLS, **common)
        await agents.save(OWNER, "asker", tools=TOOLS, approve=["kv_set"], **common)
        await agents.save(OWNER, "boss", agents=["writer"], tools=["kv_set"], **common)
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


async def call(live: Live, tool: str, *, ok: bool = True, **arguments: Any) -> Any:
    """Call a tool as the owner; returns its value, or the text of the error that is expected."""
    result = await live.runtime.bus.call(OWNER, tool, arguments)
    assert result.is_error is not ok, result.text
    return result.structured if ok else result.text


async def run(live: Live, agent: str, *made: tuple[str, dict[str, Any]]) -> Any:
    listed = [{"tool": tool, "arguments": arguments} for tool, arguments in made]
    given = json.dumps({"steps": listed, "say": "Done."})
    return await call(live, "agent_run", agent=agent, input=given)


def put(key: str, value: Any) -> tuple[str, dict[str, Any]]:
    return "kv_set", {"key": key, "value": value}


async def value(live: Live, key: str) -> Any:
    found = await live.runtime.bus.call(OWNER, "kv_get", {"key": key})
    return found.structured["value"] if found.structured is not None else None


def uris(items: list[Any]) -> list[str]:
    return [item["uri"] for item in items]


async def test_all_kinds_of_writes_are_taken_back_and_rows_are_named(live: Live) -> None:
    await call(live, "sql_execute", sql="create table undone (a int)")
    await call(live, "kv_set", key="old", value="first")
    await call(live, "object_put", key="old.txt", text="first")
    await call(live, "vector_add", store="undone", document="old", text="the first words")
    done = await run(
        live,
        "writer",
        put("old", "second"),
        put("old", "third"),
        put("new", 1),
        put("gone", 1),
        ("kv_delete", {"key": "gone"}),
        ("object_put", {"key": "old.txt", "text": "second"}),
        ("vector_add", {"store": "undone", "document": "old", "text": "other words"}),
        ("sql_execute", {"sql": "insert into undone values (1)"}),
    )
    assert done["status"] == "completed", done
    would = await call(live, "run_undo", run=done["run"], preview=True)
    assert [await value(live, "old"), await value(live, "new")] == ["third", 1]
    taken = await call(live, "run_undo", run=done["run"])
    assert {**would, "preview": False} == taken
    assert uris(taken["undone"]) == [
        "vector://undone/old",
        "object://default/old.txt",
        "kv://default/new",
        "kv://default/old",
    ]
    assert [item["changes"] for item in taken["undone"]] == [1, 1, 1, 2]
    (rows,) = taken["kept"]
    assert (rows["uri"], rows["code"]) == ("sql://main/undone", "invalid_input")
    assert [await value(live, "old"), await value(live, "new")] == ["first", None]
    assert (await call(live, "object_get", key="old.txt"))["text"] == "first"
    found = await call(live, "vector_search", store="undone", query="words")
    assert [item["text"] for item in found["results"]] == ["the first words"]

    again = await call(live, "run_undo", run=done["run"])
    assert again["undone"] == []
    assert {item["reason"] for item in again["kept"] if item["uri"] != "sql://main/undone"} == {
        "it is undone already"
    }


async def test_what_somebody_wrote_since_stays(live: Live) -> None:
    done = await run(live, "writer", put("shared", "run"), put("own", "run"))
    await call(live, "kv_set", key="shared", value="person")
    taken = await call(live, "run_undo", run=done["run"])
    assert uris(taken["undone"]) == ["kv://default/own"]
    (left,) = taken["kept"]
    assert (left["uri"], left["code"]) == ("kv://default/shared", "conflict")
    assert "changed it since" in left["reason"]
    assert [await value(live, "shared"), await value(live, "own")] == ["person", None]


async def test_an_undone_run_comes_back_change_by_change(live: Live) -> None:
    done = await run(live, "writer", put("back", "run"))
    await call(live, "run_undo", run=done["run"])
    uri = {"type": "eq", "key": "uri", "value": "kv://default/back"}
    change = (await call(live, "changes", filter=uri))["items"][-1]
    assert change["undid"] is not None
    await call(live, "undo", change=change["change"])
    assert await value(live, "back") == "run"


async def test_runs_that_it_began_are_undone_with_it(live: Live) -> None:
    below = json.dumps({"steps": [{"tool": "kv_set", "arguments": dict(put("deep", 2)[1])}]})
    done = await run(live, "boss", put("deep", 1), ("agent_writer", {"input": below}))
    assert await value(live, "deep") == 2, done
    taken = await call(live, "run_undo", run=done["run"])
    assert [(item["uri"], item["changes"]) for item in taken["undone"]] == [
        ("kv://default/deep", 2)
    ]
    assert await value(live, "deep") is None


async def test_a_run_that_has_not_ended_is_not_undone(live: Live) -> None:
    asked = await run(live, "asker", put("asked", 1))
    assert asked["status"] == "input_required"
    refused = await call(live, "run_undo", ok=False, run=asked["run"])
    assert refused.startswith(f"conflict: run {asked['run']} has not ended")
    await call(live, "run_cancel", run=asked["run"])
    assert (await call(live, "run_undo", run=asked["run"]))["undone"] == []


async def test_a_run_that_changed_too_much_is_refused(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_undo, "MOST_THINGS", 1)
    done = await run(live, "writer", put("many", 1), put("more", 1))
    refused = await call(live, "run_undo", ok=False, run=done["run"])
    assert refused.startswith(f"limit_exceeded: run {done['run']} changed more than 1 things")
    assert await value(live, "many") == 1


async def test_who_may_not_write_there_is_told_and_strangers_find_no_run(
    live: Live, http: aiohttp.ClientSession
) -> None:
    done = await run(live, "writer", put("guarded", "run"))
    few = await make_key(live, "read", "write:tool://run_undo", user="few")
    kept = (await undo(http, live, few["key"], done["run"]))["structuredContent"]
    assert (kept["undone"], [item["code"] for item in kept["kept"]]) == ([], ["forbidden"])
    stranger = await make_key(live, tenant="strangers")
    refused = await undo(http, live, stranger["key"], done["run"])
    assert refused["content"][0]["text"].startswith("not_found: ")
    assert await value(live, "guarded") == "run"


async def undo(http: aiohttp.ClientSession, live: Live, key: str, run: str) -> Any:
    return (await raw.call(http, live.url, key, "run_undo", {"run": run})).result
