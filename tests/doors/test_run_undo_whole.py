"""A run is undone as one: all of it or nothing, as far back as nobody else wrote, and only when all of it has ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server import journal
from mcp_server.errors import Unavailable
from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live, serving
from tests.doors.odd_model import OddModel

TURNS = """
turns:
- tool_calls:
  - {name: kv_set, arguments: {key: undo/plan, value: theirs}}
  - {name: kv_set, arguments: {key: undo/made, value: 1}}
  - {name: kv_delete, arguments: {key: undo/gone}}
  - {name: object_put, arguments: {key: undo/a.txt, text: theirs}}
  - {name: object_put, arguments: {key: undo/b.txt, text: theirs}}
  - {name: vector_add, arguments: {store: undo, document: a, text: Their herons wade.}}
  - {name: vector_add, arguments: {store: undo, document: b, text: Their otters swim.}}
  - {name: sql_execute, arguments: {sql: insert into undo_rows values (2)}}
- tool_calls:
  - {name: kv_set, arguments: {key: undo/plan, value: theirs again}}
- text: Done.
"""
WRITING = ["kv_set", "kv_delete", "object_put", "vector_add", "sql_execute"]
NAMES = (f"n{number}" for number in count())


@pytest.fixture(scope="module")
async def live(
    anyio_backend: object, scratch: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Live]:
    script = tmp_path_factory.mktemp("script") / "turns.yaml"
    script.write_text(TURNS)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(OddModel().app))
        urls = (f"scripted:{script}", f"{upstream}/v1")
        yield await stack.enter_async_context(open_live(scratch / "undoing", llm_url=urls))


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


class Caller:
    """A key at the MCP door, with an agent whose model makes the calls that it is told."""

    def __init__(self, http: aiohttp.ClientSession, live: Live, key: str | None = None) -> None:
        self.http, self.live, self.key = http, live, key or live.key

    async def answer(self, tool: str, given: dict[str, Any]) -> dict[str, Any]:
        return (await raw.call(self.http, self.live.url, self.key, tool, given)).result

    async def call(self, tool: str, **given: Any) -> Any:
        result = await self.answer(tool, given)
        assert not result["isError"], result
        return result["structuredContent"]

    async def refused(self, tool: str, **given: Any) -> str:
        result = await self.answer(tool, given)
        assert result["isError"], result
        return raw.text_of(result)

    async def has_run(self, *steps: tuple[str, dict[str, Any]], **fields: Any) -> str:
        """Have an agent make calls one after the other, and return its run, which has ended."""
        tools = sorted({tool for tool, _ in steps if not tool.startswith("agent_")})
        definition = {"name": "hand", "instructions": "x", "model": "odd", "tools": tools}
        await self.call("agent_save", **definition | fields)
        started = await self.call(
            "agent_run", agent=definition["name"], input=said(*steps), wait_seconds=30
        )
        assert started["status"] == "completed", started
        return started["run"]

    async def value(self, key: str) -> Any:
        result = await self.answer("kv_get", {"key": key})
        return None if result["isError"] else result["structuredContent"]["value"]


def said(*steps: tuple[str, dict[str, Any]]) -> str:
    wanted = [{"tool": tool, "arguments": arguments} for tool, arguments in steps]
    return json.dumps({"steps": wanted, "say": "Done."})


def kept(answer: dict[str, Any]) -> dict[str, str]:
    return {item["uri"]: item["code"] for item in answer["kept"]}


def undone(answer: dict[str, Any]) -> dict[str, str]:
    """Return what became of each thing: the versions themselves differ from run to run."""
    return {
        item["uri"]: "deleted" if item["restored"] is None else "restored"
        for item in answer["undone"]
    }


@pytest.fixture
def owner(http: aiohttp.ClientSession, live: Live) -> Caller:
    return Caller(http, live)


@pytest.fixture
def key() -> str:
    return f"undo/{next(NAMES)}"


async def contents(owner: Caller) -> dict[str, Any]:
    """Return all that the script touches, as a reader finds it."""
    found: dict[str, Any] = {key: await owner.value(f"undo/{key}") for key in ("plan", "made")}
    found["gone"] = await owner.value("undo/gone")
    for name in ("a.txt", "b.txt"):
        got = await owner.answer("object_get", {"key": f"undo/{name}"})
        found[name] = None if got["isError"] else got["structuredContent"]["text"]
    hits = (await owner.call("vector_search", store="undo", query="herons otters"))["results"]
    found["documents"] = sorted(
        (hit["document"], hit["text"], hit["metadata"].get("by")) for hit in hits
    )
    return found


async def scripted(owner: Caller) -> tuple[str, dict[str, Any]]:
    """Let the scripted agent write over what is there; return its run, and what was there before."""
    await owner.call("sql_execute", sql="create table if not exists undo_rows (n int)")
    await owner.call("kv_set", key="undo/plan", value="ours")
    await owner.call("kv_set", key="undo/gone", value=[1])
    await owner.call("kv_delete", key="undo/made")
    await owner.call("object_put", key="undo/a.txt", text="ours")
    await owner.call("object_delete", key="undo/b.txt")
    ours = {"store": "undo", "document": "a", "text": "Our herons wade.", "metadata": {"by": "us"}}
    await owner.call("vector_add", **ours)
    await owner.call("vector_delete", store="undo", document="b")
    before = await contents(owner)
    fields = {"name": "scripted", "instructions": "x", "model": "scripted", "tools": WRITING}
    await owner.call("agent_save", **fields)
    started = await owner.call("agent_run", agent="scripted", input="go", wait_seconds=30)
    assert started["status"] == "completed", started
    return started["run"], before


TAKEN_BACK = {
    "kv://default/undo/plan": "restored",
    "kv://default/undo/made": "deleted",
    "kv://default/undo/gone": "restored",
    "object://default/undo/a.txt": "restored",
    "object://default/undo/b.txt": "deleted",
    "vector://undo/a": "restored",
    "vector://undo/b": "deleted",
}
ROWS = {"sql://main/undo_rows": "invalid_input"}


async def test_a_run_is_undone_in_every_store_that_keeps_what_was_there(owner: Caller) -> None:
    run, before = await scripted(owner)
    assert await owner.value("undo/plan") == "theirs again"

    answer = await owner.call("run_undo", run=run)
    assert (answer["run"], answer["preview"]) == (run, False)
    assert undone(answer) == TAKEN_BACK
    assert kept(answer) == ROWS
    assert answer["undone"][0]["uri"] == "kv://default/undo/plan"  # the newest
    assert await contents(owner) == before


async def test_a_preview_tells_what_would_be_undone_and_changes_nothing(owner: Caller) -> None:
    run, before = await scripted(owner)
    now = [await owner.call("kv_get", key="undo/plan"), await owner.value("undo/made")]
    shown = await owner.call("run_undo", run=run, preview=True)
    assert shown["preview"] is True
    assert [await owner.call("kv_get", key="undo/plan"), await owner.value("undo/made")] == now
    assert await owner.value("undo/gone") is None
    assert (await owner.call("object_get", key="undo/b.txt"))["text"] == "theirs"
    documents = (await owner.call("vector_list", store="undo"))["items"]
    assert {item["document"] for item in documents} == {"a", "b"}

    answer = await owner.call("run_undo", run=run)
    assert answer == shown | {"preview": False}
    assert await contents(owner) == before


async def test_a_run_that_is_undone_twice_says_so_and_stays_undone(owner: Caller) -> None:
    run, before = await scripted(owner)
    await owner.call("run_undo", run=run)
    again = await owner.call("run_undo", run=run)
    assert again["undone"] == []
    assert kept(again) == dict.fromkeys(TAKEN_BACK, "conflict") | ROWS
    said = {item["reason"] for item in again["kept"] if item["code"] == "conflict"}
    assert said == {"it is undone already"}
    assert await contents(owner) == before


async def test_what_was_written_since_and_taken_back_again_is_undone(
    owner: Caller, key: str
) -> None:
    run = await owner.has_run(("kv_set", {"key": key, "value": 1}))
    await owner.call("kv_set", key=key, value=2)
    await owner.call("undo", change=await last_change(owner, key))
    assert undone(await owner.call("run_undo", run=run)) == {f"kv://default/{key}": "deleted"}
    assert await owner.value(key) is None


async def last_change(owner: Caller, key: str) -> str:
    this = {"type": "eq", "key": "uri", "value": f"kv://default/{key}"}
    version = (await owner.call("kv_get", key=key))["version"]
    async with asyncio.timeout(30):
        while True:
            items = (await owner.call("changes", filter=this))["items"]
            if items and items[-1]["version"] == version:
                return items[-1]["change"]
            await asyncio.sleep(0.02)


async def test_only_the_writes_since_the_last_of_somebody_else_are_undone(
    http: aiohttp.ClientSession, live: Live, owner: Caller, key: str
) -> None:
    """The agent's own run pauses between two writes: for an approval, while somebody else writes."""
    await owner.call("kv_set", key=key, value="first")
    steps = (("kv_set", {"key": key, "value": 1}), ("kv_increment", {"key": key}))
    fields = {"name": "hand", "instructions": "x", "model": "odd", "approve": ["kv_increment"]}
    await owner.call("agent_save", **fields, tools=["kv_set", "kv_increment"])
    begun = await owner.call("agent_run", agent="hand", input=said(*steps), wait_seconds=30)
    assert begun["status"] == "input_required", begun
    await owner.call("kv_set", key=key, value=10)

    for preview in (True, False):
        refusal = await owner.refused("run_undo", run=begun["run"], preview=preview)
        assert refusal.startswith(f"conflict: run {begun['run']} has not ended"), refusal
        assert "run_cancel" in refusal
    assert await owner.value(key) == 10

    await owner.call("run_input", run=begun["run"], answer={"approved": True})
    await ended(owner, begun["run"])
    assert await owner.value(key) == 11
    assert undone(await owner.call("run_undo", run=begun["run"])) == {
        f"kv://default/{key}": "restored"
    }
    assert await owner.value(key) == 10


async def ended(owner: Caller, run: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (found := await owner.call("run_get", run=run))["ended_at"] is None:
            await asyncio.sleep(0.02)
    return found


async def test_a_cancelled_run_is_undone_as_far_as_it_came(owner: Caller, key: str) -> None:
    steps = (("kv_set", {"key": key, "value": 1}), ("kv_delete", {"key": key}))
    fields = {"name": "hand", "instructions": "x", "model": "odd", "approve": ["kv_delete"]}
    await owner.call("agent_save", **fields, tools=["kv_set", "kv_delete"])
    begun = await owner.call("agent_run", agent="hand", input=said(*steps), wait_seconds=30)
    await owner.call("run_cancel", run=begun["run"])
    assert (await ended(owner, begun["run"]))["status"] == "cancelled"
    assert undone(await owner.call("run_undo", run=begun["run"])) == {
        f"kv://default/{key}": "deleted"
    }
    assert await owner.value(key) is None


async def test_a_run_whose_calls_failed_in_part_is_undone_where_it_wrote(
    owner: Caller, key: str
) -> None:
    run = await owner.has_run(
        ("kv_set", {"key": key, "value": 1, "expected_version": 7}),
        ("kv_set", {"key": key, "value": 2}),
        ("sql_execute", {"sql": "insert into undo_nowhere values (1)"}),
    )
    answer = await owner.call("run_undo", run=run)
    assert undone(answer) == {f"kv://default/{key}": "deleted"}
    assert kept(answer) == {}
    assert await owner.value(key) is None


async def test_what_a_run_made_and_deleted_again_is_nothing_to_undo(
    owner: Caller, key: str
) -> None:
    run = await owner.has_run(("kv_set", {"key": key, "value": 1}), ("kv_delete", {"key": key}))
    answer = await owner.call("run_undo", run=run)
    assert (answer["undone"], answer["kept"]) == ([], [])


async def test_what_the_runs_below_a_run_wrote_is_undone_with_it(owner: Caller, key: str) -> None:
    await owner.call("kv_set", key=key, value="before")
    helper = {"name": "helper", "instructions": "x", "model": "odd", "tools": ["kv_set"]}
    await owner.call("agent_save", **helper)
    below = said(("kv_set", {"key": key, "value": "child"}))
    run = await owner.has_run(
        ("agent_helper", {"input": below}),
        ("kv_set", {"key": f"{key}/own", "value": 1}),
        agents=["helper"],
    )
    (child,) = (await owner.call("run_list", parent=run))["items"]
    assert await owner.value(key) == "child"
    assert undone(await owner.call("run_undo", run=run)) == {
        f"kv://default/{key}": "restored",
        f"kv://default/{key}/own": "deleted",
    }
    assert await owner.value(key) == "before"
    again = await owner.call("run_undo", run=child["run"])
    assert kept(again) == {f"kv://default/{key}": "conflict"}


async def test_a_run_that_began_one_which_goes_on_is_not_undone_yet(
    owner: Caller, key: str
) -> None:
    fields = {"name": "asker", "instructions": "x", "model": "odd", "tools": ["kv_delete"]}
    await owner.call("agent_save", **fields, approve=["kv_delete"])
    given = said(("kv_delete", {"key": key}))
    run = await owner.has_run(
        ("kv_set", {"key": key, "value": 1}),
        ("agent_run", {"agent": "asker", "input": given, "wait_seconds": 0}),
        tools=["kv_set", "agent_run"],
    )
    (child,) = (await owner.call("run_list", parent=run))["items"]
    refusal = await owner.refused("run_undo", run=run)
    assert refusal.startswith(f"conflict: run {child['run']}, which {run} began, has not ended")
    assert await owner.value(key) == 1
    await owner.call("run_cancel", run=child["run"])
    await ended(owner, child["run"])
    assert undone(await owner.call("run_undo", run=run)) == {f"kv://default/{key}": "deleted"}


async def test_an_undo_that_breaks_off_has_undone_nothing(
    owner: Caller, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = f"{key}/z"
    run = await owner.has_run(
        ("kv_set", {"key": key, "value": 1}), ("kv_set", {"key": last, "value": 1})
    )
    append = journal.append

    async def failing(tx: AsyncConnection, **entry: Any) -> None:
        if entry["uri"] == f"kv://default/{last}":
            raise Unavailable("the engine went away")
        await append(tx, **entry)

    with monkeypatch.context() as broken:
        broken.setattr(journal, "append", failing)
        refusal = await owner.refused("run_undo", run=run)
    assert refusal.startswith("unavailable: "), refusal
    assert (await owner.value(key), await owner.value(last)) == (1, 1)
    assert len((await owner.call("run_undo", run=run))["undone"]) == 2


async def test_the_undo_is_a_change_of_its_own_and_can_be_undone(owner: Caller, key: str) -> None:
    await owner.call("kv_set", key=key, value="before")
    run = await owner.has_run(
        ("kv_set", {"key": key, "value": 1}), ("kv_set", {"key": key, "value": 2})
    )
    await owner.call("run_undo", run=run)
    change = await last_change(owner, key)
    this = {"type": "eq", "key": "uri", "value": f"kv://default/{key}"}
    entries = (await owner.call("changes", filter=this))["items"]
    (first, _) = [entry for entry in entries if entry["run"] == run]
    assert (entries[-1]["undid"], entries[-1]["run"]) == (first["change"], None)
    await owner.call("undo", change=change)
    assert await owner.value(key) == 2
    assert undone(await owner.call("run_undo", run=run)) == {f"kv://default/{key}": "restored"}
    assert await owner.value(key) == "before"


async def test_an_undo_of_a_run_is_audited_for_each_thing(
    live: Live, owner: Caller, key: str
) -> None:
    run = await owner.has_run(("kv_set", {"key": key, "value": 1}))
    await owner.call("run_undo", run=run)
    query = text(
        "select count(*) from audit where uri = :uri and verb = 'write' and outcome = 'ok'"
    )
    async with asyncio.timeout(30):
        while True:
            async with live.runtime.engines.control.connect() as tx:
                if await tx.scalar(query, {"uri": f"kv://default/{key}"}) == 2:
                    return
            await asyncio.sleep(0.02)


async def test_what_is_not_kept_any_more_is_named(live: Live, owner: Caller, key: str) -> None:
    await owner.call("kv_set", key=key, value="before")
    run = await owner.has_run(("kv_set", {"key": key, "value": 1}))
    async with live.runtime.engines.control.begin() as tx:
        await tx.execute(text("delete from kv_versions where key = :key"), {"key": key})
    answer = await owner.call("run_undo", run=run)
    assert (undone(answer), kept(answer)) == ({}, {f"kv://default/{key}": "conflict"})
    assert await owner.value(key) == 1


async def test_what_went_out_of_the_server_is_named(owner: Caller, key: str) -> None:
    run = await owner.has_run(
        ("object_put", {"key": key, "text": "x"}), ("object_link", {"key": key})
    )
    answer = await owner.call("run_undo", run=run)
    assert undone(answer) == {f"object://default/{key}": "deleted"}
    assert kept(answer) == {"tool://object_link": "invalid_input"}


async def test_who_may_not_write_there_undoes_nothing_there(
    http: aiohttp.ClientSession, live: Live, owner: Caller, key: str
) -> None:
    other = f"{key}/other"
    run = await owner.has_run(
        ("kv_set", {"key": key, "value": 1}), ("kv_set", {"key": other, "value": 1})
    )
    scopes = ("read", f"write:kv://default/{other}")
    some = Caller(http, live, (await make_key(live, *scopes))["key"])
    answer = await some.call("run_undo", run=run)
    assert kept(answer) == {f"kv://default/{key}": "forbidden"}
    assert undone(answer) == {f"kv://default/{other}": "deleted"}
    assert await owner.value(key) == 1

    blind = ("read:run://*", "write:kv://elsewhere/*")
    nobody = Caller(http, live, (await make_key(live, *blind))["key"])
    answer = await nobody.call("run_undo", run=run)
    assert (answer["undone"], answer["kept"]) == ([], [])  # not even the names
    reader = Caller(http, live, (await make_key(live, "read"))["key"])
    assert (await reader.refused("run_undo", run=run)).startswith("forbidden: ")
    assert await owner.value(key) == 1


async def test_another_tenants_run_is_none(
    http: aiohttp.ClientSession, live: Live, owner: Caller, key: str
) -> None:
    run = await owner.has_run(("kv_set", {"key": key, "value": 1}))
    foreign = await make_key(live, "read", "write", "run", tenant="stranger")
    stranger = Caller(http, live, foreign["key"])
    missing = "run_" + "0" * 32
    refusals = {
        (await stranger.refused("run_undo", run=which)).replace(which, "RUN")
        for which in (run, missing)
    }
    assert refusals == {"not_found: run 'RUN' does not exist"}
    assert await owner.value(key) == 1


async def test_an_approval_of_an_undo_shows_what_it_would_do(owner: Caller, key: str) -> None:
    run = await owner.has_run(("kv_set", {"key": key, "value": 1}))
    fields = {"name": "undoer", "instructions": "x", "model": "odd", "tools": ["run_undo"]}
    await owner.call("agent_save", **fields, approve=["run_undo"])
    begun = await owner.call(
        "agent_run", agent="undoer", input=said(("run_undo", {"run": run})), wait_seconds=30
    )
    preview = (await owner.call("run_get", run=begun["run"]))["request"]["preview"]
    assert preview["shows"] == "change"
    assert undone(preview["result"]) == {f"kv://default/{key}": "deleted"}
    assert await owner.value(key) == 1

    await owner.call("run_input", run=begun["run"], answer={"approved": True})
    assert (await ended(owner, begun["run"]))["status"] == "completed"
    assert await owner.value(key) is None
    # What the undoer did is a run's write as any other.
    assert undone(await owner.call("run_undo", run=begun["run"])) == {
        f"kv://default/{key}": "restored"
    }
    assert await owner.value(key) == 1
