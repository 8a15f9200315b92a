"""Agents on the real database: definitions, versions, what a save refuses, and who sees what."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.bus import ToolSpec
from mcp_server.errors import Forbidden, InvalidInput, LimitExceeded, NotFound
from mcp_server.llm.router import Router
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.operation import Operations
from mcp_server.services import agent_saves
from mcp_server.services.agents import AgentService

DEFAULTS = {
    "description": "",
    "model": "default",
    "tools": [],
    "variables": {},
    "fallbacks": [],
    "agents": [],
    "stores": [],
    "output_schema": None,
    "parallel": True,
    "limits": {
        "turns": 16,
        "seconds": 600.0,
        "tool_calls": 64,
        "tokens": None,
        "cost": None,
        "context_tokens": None,
    },
    "memory": "none",
    "busy": "reject",
    "as_tool": False,
    "as_prompt": False,
    "metadata": {},
}


async def tools(principal: Principal) -> list[ToolSpec]:
    names = ["kv_get", "kv_set"] if "run" in principal.scopes else ["kv_get"]
    return [ToolSpec(name, "", {}, read_only=False, egress=False) for name in names]


@pytest.fixture
def agents(operations: Operations, control: AsyncEngine) -> AgentService:
    router = Router([ScriptedModel()], default_model=None, announcement="")
    return AgentService(operations, control, models=router.models, tools=tools)


def with_scopes(principal: Principal, *scopes: str) -> Principal:
    return Principal(principal.tenant, principal.subject, frozenset(scopes))


async def test_a_saved_agent_comes_back_with_its_defaults(
    agents: AgentService, principal: Principal
) -> None:
    saved = await agents.save(principal, "helper", instructions="Help.\0 \U0001f600")
    assert await agents.get(principal, "helper") == saved
    told = {name: saved[name] for name in DEFAULTS}
    assert told == DEFAULTS
    assert saved["instructions"] == "Help.\0 \U0001f600"
    assert saved["created_at"].endswith("Z")


async def test_each_save_is_a_new_version_and_stands_in_the_journal(
    agents: AgentService, principal: Principal, control: AsyncEngine
) -> None:
    first = await agents.save(principal, "helper", instructions="one", tools=["kv_get"])
    second = await agents.save(principal, "helper", instructions="two")
    assert second["version"] > first["version"]
    assert second["created_at"] == first["created_at"]
    assert (second["instructions"], second["tools"]) == ("two", [])
    entries, _ = await journal.read(control, principal.tenant, None, 10)
    told = [(entry["verb"], entry["uri"], entry["prev_version"]) for entry in entries]
    assert told == [
        ("write", "agent://helper", None),
        ("write", "agent://helper", first["version"]),
    ]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "gpt-9"}, "model: 'gpt-9' does not exist; there are default, scripted"),
        (
            {"tools": ["kv_get", "rm"]},
            "tools: 'rm' does not exist; there are ask_person, kv_get, kv_set",
        ),
        ({"limits": {"turns": 0}}, "limits.turns: "),
        ({"limits": {"hours": 1}}, "limits.hours: "),
        ({"temperature": 1}, "temperature: "),
        ({"metadata": {"a": "x" * 513}}, "metadata.a: "),
        ({"instructions": "x" * 100_001}, "instructions: "),
    ],
)
async def test_a_definition_that_does_not_fit_is_refused_with_what_exists(
    agents: AgentService, principal: Principal, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await agents.save(principal, "helper", **{"instructions": "", **fields})
    assert told in refused.value.message
    with pytest.raises(NotFound):
        await agents.get(principal, "helper")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "\0", "é", ".", "x" * 129])
async def test_a_name_that_would_not_stand_in_a_uri_is_refused(
    agents: AgentService, principal: Principal, name: str
) -> None:
    with pytest.raises(InvalidInput):
        await agents.save(principal, name, instructions="")


async def test_a_tool_that_the_saver_may_not_call_does_not_exist_for_it(
    agents: AgentService, principal: Principal
) -> None:
    with pytest.raises(InvalidInput, match=r"there are ask_person, kv_get$"):
        await agents.save(with_scopes(principal, "write"), "a", instructions="", tools=["kv_set"])


async def test_lists_and_reads_show_only_what_policy_allows(
    agents: AgentService, principal: Principal, stranger: Principal
) -> None:
    for name in ("b", "a", "team-x"):
        await agents.save(principal, name, instructions="")
    some = with_scopes(principal, "read:agent://team-*")
    listed = [item["name"] for item in (await agents.list(principal))["items"]]
    assert listed == ["a", "b", "team-x"]
    assert [item["name"] for item in (await agents.list(some))["items"]] == ["team-x"]
    assert (await agents.list(stranger))["items"] == []
    with pytest.raises(Forbidden):
        await agents.get(some, "a")
    with pytest.raises(Forbidden):
        await agents.save(some, "team-x", instructions="")
    with pytest.raises(NotFound) as foreign:
        await agents.get(stranger, "a")
    with pytest.raises(NotFound) as missing:
        await agents.get(principal, "A")
    assert str(foreign.value) == str(missing.value).replace("'A'", "'a'")


async def test_one_agent_too_many_is_refused_and_those_that_exist_can_still_change(
    agents: AgentService, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_saves, "MOST_AGENTS", 1)
    await agents.save(principal, "a", instructions="1")
    await agents.save(principal, "a", instructions="2")
    with pytest.raises(LimitExceeded, match="there are 1 agents"):
        await agents.save(principal, "b", instructions="")


async def test_versions_are_kept_and_read_as_they_were(
    agents: AgentService, principal: Principal, stranger: Principal
) -> None:
    saved = [await agents.save(principal, "v", instructions=text) for text in ("1", "2", "3")]
    listed = (await agents.versions(principal, "v"))["items"]
    assert [item["version"] for item in listed] == [item["version"] for item in reversed(saved)]
    assert {item["subject"] for item in listed} == {principal.subject}
    for item in saved:
        then = await agents.get(principal, "v", item["version"])
        assert (then["instructions"], then["version"]) == (item["instructions"], item["version"])
        assert then["created_at"] == saved[0]["created_at"]
    with pytest.raises(
        NotFound, match=r"has no version 999999, it is at \d+; agent_versions shows"
    ):
        await agents.get(principal, "v", 999_999)
    for foreign in (
        agents.versions(stranger, "v"),
        agents.get(stranger, "v", listed[0]["version"]),
    ):
        with pytest.raises(NotFound, match="does not exist"):
            await foreign


async def test_the_oldest_versions_give_way(
    agents: AgentService, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_saves, "MOST_VERSIONS", 2)
    saved = [await agents.save(principal, "v", instructions=text) for text in ("1", "2", "3")]
    kept = [item["version"] for item in (await agents.versions(principal, "v"))["items"]]
    assert kept == [saved[2]["version"], saved[1]["version"]]


async def test_a_deleted_agent_is_gone_with_its_versions_and_may_come_again(
    agents: AgentService, principal: Principal, stranger: Principal, control: AsyncEngine
) -> None:
    first = await agents.save(principal, "gone", instructions="1")
    assert await agents.delete(stranger, "gone") == {"deleted": False}
    assert await agents.delete(principal, "gone") == {"deleted": True}
    assert await agents.delete(principal, "gone") == {"deleted": False}
    with pytest.raises(NotFound):
        await agents.get(principal, "gone")
    again = await agents.save(principal, "gone", instructions="2")
    assert again["version"] > first["version"]
    assert len((await agents.versions(principal, "gone"))["items"]) == 1
    entries, _ = await journal.read(control, principal.tenant, None, 10)
    assert [entry["verb"] for entry in entries] == ["write", "delete", "write"]


async def test_a_pause_outlives_a_save_and_is_journalled_once(
    agents: AgentService, principal: Principal, control: AsyncEngine
) -> None:
    await agents.save(principal, "rests", instructions="1")
    assert (await agents.pause(principal, "rests"))["paused"]
    assert (await agents.pause(principal, "rests"))["paused"]
    assert (await agents.save(principal, "rests", instructions="2"))["paused"]
    assert not (await agents.resume(principal, "rests"))["paused"]
    entries, _ = await journal.read(control, principal.tenant, None, 10)
    assert [entry["verb"] for entry in entries] == ["write"] * 4
    for absent in (agents.pause(principal, "absent"), agents.resume(principal, "absent")):
        with pytest.raises(NotFound, match="does not exist"):
            await absent
    with pytest.raises(Forbidden):
        await agents.pause(with_scopes(principal, "read", "run"), "rests")
