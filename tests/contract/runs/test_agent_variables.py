"""Variables of an agent's instructions: filled once at a run's start, and refused by name."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.llm import ChatRequest, Chunk
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.services.runs import RunService
from mcp_server.storage.sql.run_tables import runs as run_table
from tests.contract.runs.world import World

ASKING = "Answer {{reader}} in {{language}}, not {{reader }}; {{Not a place}}."


@pytest.fixture
async def asking(world: World, principal: Principal) -> str:
    variables = {"reader": None, "language": "English"}
    await world.agents.save(principal, "asking", instructions=ASKING, variables=variables)
    return "asking"


async def stored(control: AsyncEngine, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    async with control.connect() as tx:
        query = select(run_table.c.definition, run_table.c.input).where(run_table.c.id == run)
        row = (await tx.execute(query)).one()
    return row.definition, row.input


async def test_the_model_reads_the_instructions_filled_in(
    world: World, runs: RunService, principal: Principal, asking: str
) -> None:
    read: list[ChatRequest] = []

    class Reading(ScriptedModel):
        def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
            read.append(request)
            return super().stream(request)

    world.model = Reading
    given = {"reader": "{{language}}"}
    done = await runs.run(principal, asking, "go", variables=given, wait_seconds=30)
    assert done["status"] == "completed"
    said = read[0]["messages"][0]["content"]
    assert said == "Answer {{language}} in English, not {{language}}; {{Not a place}}."


async def test_a_run_keeps_its_text_and_its_variables(
    runs: RunService, principal: Principal, control: AsyncEngine, asking: str
) -> None:
    given = {"reader": "Ada", "language": ""}
    run = await runs.start(principal, asking, "go", variables=given)
    definition, begun = await stored(control, run["run"])
    assert definition["instructions"] == "Answer Ada in , not Ada; {{Not a place}}."
    assert begun["variables"] == given


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "variables: reader must be given"),
        ({"language": "Thai"}, "variables: reader must be given"),
        (
            {"reader": "Ada", "readers": "x"},
            "variables: the agent has no readers; it has reader, lang",
        ),
        ({"reader": "x" * 60_000}, "variables: filled in, the instructions have 120"),
    ],
)
async def test_variables_that_do_not_fit_are_refused_by_name(
    runs: RunService, principal: Principal, asking: str, given: dict[str, str], told: str
) -> None:
    with pytest.raises(InvalidInput, match="variables") as refused:
        await runs.start(principal, asking, "go", variables=given)
    assert told in refused.value.message


async def test_an_agent_without_variables_takes_none(
    runs: RunService, principal: Principal
) -> None:
    with pytest.raises(InvalidInput, match="the agent has no x; it has none"):
        await runs.start(principal, "helper", "go", variables={"x": "1"})
    with pytest.raises(InvalidInput, match="conversation"):
        await runs.start(principal, "helper", "go", conversation="")
