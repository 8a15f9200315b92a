"""What an agent asks of people: approvals that show what the call would do, and questions of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mcp_server.agents import previews
from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live, serving
from tests.doors.odd_model import OddModel
from tests.doors.tasks_client import over_http


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(OddModel().app))
        opened = open_live(scratch / "questions", llm_url=(f"{upstream}/v1",))
        yield await stack.enter_async_context(opened)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


class Owner:
    """The owner of a tenant, whose agent `clerk` makes one call and says what came of it."""

    def __init__(self, http: aiohttp.ClientSession, live: Live, key: str | None = None) -> None:
        self.http, self.live, self.key = http, live, key or live.key

    async def call(self, tool: str, **arguments: Any) -> Any:
        result = (await raw.call(self.http, self.live.url, self.key, tool, arguments)).result
        assert not result["isError"], result
        return result["structuredContent"]

    async def refused(self, tool: str, **arguments: Any) -> str:
        result = (await raw.call(self.http, self.live.url, self.key, tool, arguments)).result
        assert result["isError"], result
        return raw.text_of(result)

    async def asks(self, tool: str, arguments: dict[str, Any], **more: Any) -> Any:
        """Have the agent call a tool that waits for approval, and return its run."""
        fields = {"name": "clerk", "instructions": "x", "tools": [tool], "approve": [tool]} | more
        await self.call("agent_save", **fields)
        wanted = {"steps": [{"tool": tool, "arguments": arguments}], "say": "Done."}
        started = await self.call("agent_run", agent="clerk", input=json.dumps(wanted))
        assert started["status"] == "input_required", started
        return await self.call("run_get", run=started["run"])

    async def outcome(self, run: str) -> dict[str, Any]:
        """Wait for the end of a run, and return the event of its one call."""
        async with asyncio.timeout(30):
            while (await self.call("run_get", run=run))["ended_at"] is None:
                await asyncio.sleep(0.02)
        told = await self.call("run_events", run=run, limit=1000)
        (finished,) = [event for event in told["items"] if event["type"] == "tool_finished"]
        return finished


@pytest.fixture
def owner(http: aiohttp.ClientSession, live: Live) -> Owner:
    return Owner(http, live)


async def test_an_approval_shows_the_rows_that_a_statement_would_change_and_changes_none(
    owner: Owner,
) -> None:
    await owner.call("sql_execute", sql="create table bills (id int, paid bool)")
    await owner.call("sql_execute", sql="insert into bills values (1, false), (2, false)")
    run = await owner.asks("sql_execute", {"sql": "update bills set paid = true where id = 1"})
    preview = run["request"]["preview"]
    assert preview["shows"] == "change"
    assert preview["result"]["row_count"] == 1
    assert "bills" in json.dumps(preview["result"]["preview"])
    unpaid = "select count(*) from bills where not paid"
    assert (await owner.call("sql_query", sql=unpaid))["rows"] == [[2]]
    await owner.call("run_input", run=run["run"], answer={"approved": True})
    assert not (await owner.outcome(run["run"]))["is_error"]
    assert (await owner.call("sql_query", sql=unpaid))["rows"] == [[1]]


async def test_an_approval_shows_what_is_there_now_or_that_nothing_is(owner: Owner) -> None:
    run = await owner.asks("kv_set", {"key": "plan", "value": "new"})
    assert run["request"]["preview"] == {"shows": "current", "result": None}
    await owner.call("kv_set", key="plan", value="old")
    run = await owner.asks("kv_set", {"key": "plan", "value": "new"})
    preview = run["request"]["preview"]
    assert (preview["shows"], preview["result"]["value"]) == ("current", "old")
    task = await over_http(owner.http, owner.live.url, owner.key).get(run["run"])
    (form,) = task["inputRequests"].values()
    assert 'There is now: {"key": "plan"' in form["params"]["message"]


async def test_a_tool_that_cannot_tell_has_no_preview_and_is_asked_for_all_the_same(
    owner: Owner,
) -> None:
    await owner.call("kv_set", key="listed", value=1)
    run = await owner.asks("kv_list", {"prefix": "listed"})
    assert "preview" not in run["request"]


async def test_a_preview_shows_nothing_that_the_run_may_not_read(
    live: Live, http: aiohttp.ClientSession, owner: Owner
) -> None:
    await owner.call("kv_set", key="secret", value="hidden word")
    scopes = ("run", "write", "read:tool://*", "read:run://*", "read:kv://default/open")
    writer = Owner(http, live, (await make_key(live, *scopes))["key"])
    run = await writer.asks("kv_set", {"key": "secret", "value": 1})
    assert run["request"]["preview"]["unavailable"].startswith("forbidden: ")
    assert "hidden" not in json.dumps(run)


async def test_a_preview_that_fails_or_takes_long_is_told_and_blocks_no_question(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await owner.asks("sql_execute", {"sql": "update no_such_table set a = 1"})
    assert "no_such_table" in run["request"]["preview"]["unavailable"]
    assert run["request"]["kind"] == "approval"
    monkeypatch.setattr(previews, "MOST_SECONDS", 0.2)
    await owner.call("sql_execute", sql="create table if not exists slow (a text)")
    slow = {"sql": "insert into slow select n::text from generate_series(1, 10000000000) n"}
    run = await owner.asks("sql_execute", slow)
    assert run["request"]["preview"]["unavailable"].startswith("timeout: ")


async def test_a_long_preview_is_cut(owner: Owner) -> None:
    await owner.call("kv_set", key="long", value="x" * 50_000)
    run = await owner.asks("kv_delete", {"key": "long"})
    preview = run["request"]["preview"]
    assert preview["cut"] is True
    assert len(preview["result"]) == previews.MOST_CHARS


ASKED: Any = {
    "message": "How many?",
    "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
}


async def test_an_agent_asks_a_person_and_goes_on_with_the_first_answer(owner: Owner) -> None:
    run = await owner.asks("ask_person", ASKED, approve=[])
    request = run["request"]
    assert (request["kind"], request["message"], request["schema"]) == (
        "question", "How many?", ASKED["schema"],
    )  # fmt: skip
    refused = await owner.refused("run_input", run=run["run"], answer={"n": "many"})
    assert refused.startswith("invalid_input: answer['n']")
    await owner.call("run_input", run=run["run"], answer={"n": 3}, request=request["id"])
    late = await owner.refused("run_input", run=run["run"], answer={"n": 4}, request=request["id"])
    assert late.startswith("conflict: ")
    told = await owner.outcome(run["run"])
    assert (json.loads(told["text"]), told["is_error"]) == ({"answer": {"n": 3}}, False)


async def test_a_question_is_answered_or_declined_as_a_task(owner: Owner) -> None:
    client = over_http(owner.http, owner.live.url, owner.key)
    for action, content, text in (
        ("accept", {"n": 7}, '{"answer": {"n": 7}}'),
        ("decline", None, "forbidden: the person declined the question"),
    ):
        run = await owner.asks("ask_person", ASKED, approve=[])
        ((name, form),) = (await client.get(run["run"]))["inputRequests"].items()
        assert form["params"]["message"] == "How many?"
        response = {"action": action} | ({"content": content} if content else {})
        await client.result("tasks/update", taskId=run["run"], inputResponses={name: response})
        assert (await owner.outcome(run["run"]))["text"] == text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"message": " "}, "message: give a text"),
        ({"message": "a", "schema": {"type": 3}}, "schema: "),
        ({"message": "a", "schema": []}, "schema: give the JSON schema"),
        ({"message": "a", "to": "bob"}, "to: ask_person takes message and schema"),
    ],
)
async def test_a_question_that_cannot_be_asked_is_told_to_the_model(
    owner: Owner, arguments: dict[str, Any], reason: str
) -> None:
    fields = {"name": "odd", "instructions": "x", "tools": ["ask_person"]}
    await owner.call("agent_save", **fields)
    wanted = {"steps": [{"tool": "ask_person", "arguments": arguments}], "say": "Done."}
    done = await owner.call("agent_run", agent="odd", input=json.dumps(wanted))
    assert done["status"] == "completed", done
    assert (await owner.outcome(done["run"]))["text"].startswith(f"invalid_input: {reason}")
