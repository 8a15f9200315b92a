"""What a definition of an agent may say: each reference to something else, and each pair that must fit."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.bus import ToolSpec
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.llm.router import Router
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.operation import Operations
from mcp_server.services.agents import AgentService
from mcp_server.storage.sql.agent_tables import agents as agent_table
from mcp_server.storage.sql.schema import vector_stores

WHOLE: dict[str, Any] = {
    "instructions": "Answer {{reader}} in {{ language }}.",
    "description": "answers",
    "variables": {"reader": None, "language": "English"},
    "model": "scripted",
    "fallbacks": ["default"],
    "tools": ["kv_get", "kv_set"],
    "agents": ["sub"],
    "stores": ["manuals"],
    "approve": ["kv_set", "agent_sub", "search_documents"],
    "unsure": "retry",
    "output_schema": {"type": "object", "properties": {"answer": {"type": "string"}}},
    "parallel": False,
    "limits": {
        "turns": 3,
        "seconds": 5.0,
        "tool_calls": 2,
        "tokens": 100,
        "cost": 0.5,
        "context_tokens": 9,
    },
    "memory": "conversation",
    "busy": "enqueue",
    "as_tool": True,
    "as_prompt": True,
    "metadata": {"team": "docs"},
}


async def tools(principal: Principal) -> list[ToolSpec]:
    del principal
    names = ["agent_sub", "kv_get", "kv_set"]
    return [ToolSpec(name, "", {}, read_only=False, egress=False) for name in names]


@pytest.fixture
async def agents(
    operations: Operations, control: AsyncEngine, principal: Principal
) -> AgentService:
    router = Router([ScriptedModel()], default_model=None, announcement="")
    service = AgentService(operations, control, models=router.models, tools=tools)
    await service.save(principal, "sub", instructions="Help.")
    async with control.begin() as tx:
        for name, days in (("manuals", None), ("gone", 0)):
            await tx.execute(
                insert(vector_stores).values(
                    id=f"vs_{name}{principal.tenant}",
                    tenant=principal.tenant,
                    name=name,
                    embedding_model="m",
                    dimensions=2,
                    engine="postgresql",
                    shard=0,
                    index_state="none",
                    measured_chunks=0,
                    metadata={},
                    expires_days=days,
                )
            )
    return service


def scoped(principal: Principal, *scopes: str) -> Principal:
    return Principal(principal.tenant, principal.subject, frozenset(scopes))


async def test_every_field_comes_back_as_it_was_saved(
    agents: AgentService, principal: Principal
) -> None:
    saved = await agents.save(principal, "whole", **WHOLE)
    assert await agents.get(principal, "whole") == saved
    assert {name: value for name, value in saved.items() if name in WHOLE} == WHOLE


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"fallbacks": ["default", "gpt-9"]}, "fallbacks: 'gpt-9' does not exist; there are "),
        ({"fallbacks": ["default"] * 9}, "fallbacks: "),
        ({"stores": ["manual"]}, "stores: 'manual' does not exist; there are manuals"),
        ({"stores": ["gone"]}, "stores: 'gone' does not exist; there are manuals"),
        ({"agents": ["nobody"]}, "agents: 'nobody' does not exist; there are sub"),
        ({"agents": ["self"]}, "agents: 'self' would run itself"),
        (
            {"tools": ["agent_sub"], "agents": ["sub"]},
            "agents: 'sub' would be the function 'agent_sub'",
        ),
        (
            {"approve": ["agent_sub"]},
            "approve: 'agent_sub' is not among the agent's tools; it has none",
        ),
        ({"instructions": "{{a}}"}, "variables: the instructions use {{a}}, which is not declared"),
        ({"variables": {"a": ""}}, "variables: the instructions do not use 'a'"),
        ({"variables": {"a-b": ""}}, "variables.a-b"),
        (
            {"instructions": "{{input}}", "variables": {"input": ""}},
            "variables: 'input' is an argument",
        ),
        ({"output_schema": {"type": "text"}}, "output_schema['type']: 'text' is not valid"),
        ({"output_schema": {"pattern": "("}}, "output_schema['pattern']: "),
        ({"output_schema": {"$ref": "#/$defs/a"}}, "output_schema: the reference '/$defs/a'"),
        (
            {"output_schema": {"$ref": "https://a.test/s"}},
            "output_schema: the reference 'https://a",
        ),
        ({"output_schema": {"enum": ["x" * 70_000]}}, "output_schema: it has 70013 bytes"),
        (
            {"output_schema": {"required": ["a", *range(200)]}},
            "output_schema: a list in it has more",
        ),
        ({"limits": {"tokens": 0}}, "limits.tokens: "),
        ({"limits": {"cost": -1}}, "limits.cost: "),
        ({"memory": "always"}, "memory: "),
        ({"busy": "wait"}, "busy: "),
    ],
)
async def test_what_does_not_exist_or_does_not_fit_is_refused_by_name(
    agents: AgentService, principal: Principal, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await agents.save(principal, "self", **{"instructions": "", **fields})
    assert told in refused.value.message
    with pytest.raises(NotFound):
        await agents.get(principal, "self")


async def test_a_schema_that_is_nested_without_end_is_refused(
    agents: AgentService, principal: Principal
) -> None:
    schema: dict[str, Any] = {}
    for _ in range(5_000):
        schema = {"not": schema}
    with pytest.raises(InvalidInput, match="output_schema: it is nested too deep"):
        await agents.save(principal, "self", instructions="", output_schema=schema)


async def test_sub_agents_that_lead_back_are_refused_with_the_way(
    agents: AgentService, principal: Principal
) -> None:
    await agents.save(principal, "b", instructions="", agents=["sub"])
    await agents.save(principal, "a", instructions="", agents=["b"])
    with pytest.raises(InvalidInput, match=r"agents: .* \(sub -> a -> b -> sub\)"):
        await agents.save(principal, "sub", instructions="", agents=["a"])
    assert (await agents.get(principal, "sub"))["agents"] == []


async def test_what_the_saver_may_not_use_does_not_exist_for_it(
    agents: AgentService, principal: Principal
) -> None:
    writer = scoped(principal, "write", "run:agent://other")
    with pytest.raises(InvalidInput, match=r"stores: 'manuals' does not exist; there are none"):
        await agents.save(writer, "a", instructions="", stores=["manuals"])
    with pytest.raises(InvalidInput, match=r"agents: 'sub' does not exist; there are none"):
        await agents.save(writer, "a", instructions="", agents=["sub"])


async def test_a_definition_of_an_earlier_release_still_loads(
    agents: AgentService, principal: Principal, control: AsyncEngine
) -> None:
    early = {"name": "old", "instructions": "Say {{this}}.", "tools": [], "limits": {"turns": 2}}
    async with control.begin() as tx:
        await tx.execute(
            insert(agent_table).values(
                tenant=principal.tenant, name="old", definition=early, version=1
            )
        )
    found = await agents.get(principal, "old")
    assert (found["variables"], found["memory"], found["as_tool"]) == ({}, "none", False)
    assert (found["limits"]["turns"], found["limits"]["tokens"]) == (2, None)
    assert found["instructions"] == "Say {{this}}."


async def test_a_limit_of_the_cost_needs_the_price_of_every_model(
    operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    router = Router([ScriptedModel()], default_model=None, announcement="")
    priced = {"scripted": 0.0}
    service = AgentService(
        *(operations, control),
        models=router.models,
        tools=tools,
        cost_of=lambda model, _: priced.get(model),
    )
    limits = {"cost": 1.0}
    await service.save(principal, "cheap", instructions="", model="scripted", limits=limits)
    with pytest.raises(InvalidInput, match=r"limits\.cost: the model 'default' has no price"):
        await service.save(
            principal,
            "dear",
            instructions="",
            model="scripted",
            fallbacks=["default"],
            limits=limits,
        )
