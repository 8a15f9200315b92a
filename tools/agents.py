"""Agent tools."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from mcp_types import InputRequiredResult
from pydantic import Field

from mcp_server.agents.definitions import AgentLimits, Busy, Memory, UnsurePolicy
from mcp_server.plugins import Call, Preview, tool
from mcp_server.services.agent_items import AgentDeleted, AgentItem, AgentPage, AgentVersions
from mcp_server.services.agent_stats import AgentStats
from mcp_server.services.runs import RunResult

MARGIN_SECONDS = 0.5
SHOWN = Preview("agent_get", ("name",))


Names = list[str] | None


@tool(verb="write", preview=SHOWN)
async def agent_save(
    call: Call,
    name: str,
    instructions: Annotated[
        str, Field(description="the system message; {{name}} stands for a variable")
    ],
    description: str = "",
    variables: Annotated[
        dict[str, str | None] | None,
        Field(
            description="of the instructions, each with its default text, null if runs must give it"
        ),
    ] = None,
    model: Annotated[str, Field(description="an id of model_list")] = "default",
    fallbacks: Annotated[Names, Field(description="models to ask when it fails")] = None,
    tools: Annotated[
        Names, Field(description="names of the tools it may use; none if left out")
    ] = None,
    agents: Annotated[Names, Field(description="agents that it may run, as functions")] = None,
    stores: Annotated[Names, Field(description="vector stores that it may search")] = None,
    approve: Annotated[
        Names,
        Field(description="those of its tools whose every call waits for a person, see run_input"),
    ] = None,
    unsure: Annotated[
        UnsurePolicy,
        Field(
            description="what becomes of an interrupted call to a tool that cannot promise to do it "
            "only once: the run fails with code `unsure`, or the call is made again"
        ),
    ] = "fail",
    output_schema: Annotated[
        dict[str, Any] | None,
        Field(description="JSON schema of the final answer; text if left out"),
    ] = None,
    parallel: Annotated[bool, Field(description="make the calls of one turn at once")] = True,
    limits: AgentLimits | None = None,
    memory: Annotated[
        Memory, Field(description="conversation: runs with one key go on with what was said")
    ] = "none",
    busy: Annotated[
        Busy, Field(description="what becomes of a run whose conversation is in another run")
    ] = "reject",
    as_tool: Annotated[bool, Field(description="show it as the tool agent_NAME")] = False,
    as_prompt: Annotated[
        bool, Field(description="show its instructions as the prompt agent_NAME")
    ] = False,
    metadata: dict[str, str] | None = None,
) -> AgentItem:
    """Define an agent, or replace its definition by a new version."""
    return await call.services.agents.save(
        call.principal,
        name,
        idempotency_key=call.key,
        instructions=instructions,
        description=description,
        variables=variables or {},
        model=model,
        fallbacks=fallbacks or [],
        tools=tools or [],
        agents=agents or [],
        stores=stores or [],
        approve=approve or [],
        unsure=unsure,
        output_schema=output_schema,
        parallel=parallel,
        limits=limits or AgentLimits(),
        memory=memory,
        busy=busy,
        as_tool=as_tool,
        as_prompt=as_prompt,
        metadata=metadata or {},
    )


@tool(verb="read", read_only=True, destructive=False)
async def agent_get(
    call: Call,
    name: str,
    version: Annotated[int | None, Field(description="as it was then; now if left out")] = None,
) -> AgentItem:
    """Get the definition of an agent."""
    return await call.services.agents.get(call.principal, name, version)


@tool(verb="read", read_only=True, destructive=False)
async def agent_versions(call: Call, name: str) -> AgentVersions:
    """List the last hundred versions of an agent's definition, newest first."""
    return await call.services.agents.versions(call.principal, name)


@tool(verb="write", preview=SHOWN)
async def agent_delete(call: Call, name: str) -> AgentDeleted:
    """Delete an agent and its versions; runs that have begun go on, its schedules stop."""
    return await call.services.agents.delete(call.principal, name, idempotency_key=call.key)


@tool(verb="write", destructive=False)
async def agent_pause(call: Call, name: str) -> AgentItem:
    """Begin no new run of an agent, by hand, schedule or trigger; those that have begun go on."""
    return await call.services.agents.pause(call.principal, name, idempotency_key=call.key)


@tool(verb="write", destructive=False)
async def agent_resume(call: Call, name: str) -> AgentItem:
    """Let new runs of an agent begin again."""
    return await call.services.agents.resume(call.principal, name, idempotency_key=call.key)


@tool(verb="read", read_only=True, destructive=False)
async def agent_list(call: Call) -> AgentPage:
    """List the agents with their definitions."""
    return await call.services.agents.list(call.principal)


@tool(verb="read", read_only=True, destructive=False)
async def agent_stats(
    call: Call,
    agent: Annotated[str | None, Field(description="this one only, with its versions")] = None,
    hours: Annotated[float, Field(description="of the runs made in the last hours")] = 24,
    limit: int | None = None,
) -> AgentStats:
    """Get figures of agents: how runs ended, how long they took (p50, p95, p99), tokens, cost, errors."""
    return await call.services.agent_stats.stats(
        call.principal, agent=agent, hours=hours, limit=limit
    )


@tool(verb="run", starts_run=True)
async def agent_run(
    call: Call,
    agent: str,
    input: Annotated[  # noqa: A002  the contract's name
        str | list[dict[str, Any]], Field(description="a text, or chat messages")
    ],
    wait_seconds: Annotated[
        float, Field(description="0 returns at once; the run goes on after the wait")
    ] = 30,
    variables: Annotated[
        dict[str, str] | None, Field(description="texts for the variables of its instructions")
    ] = None,
    conversation: Annotated[
        str | None, Field(description="key of the conversation that it goes on with")
    ] = None,
) -> RunResult | InputRequiredResult:
    """Run an agent with the caller's rights and wait for its answer.

    A run that is not over goes on, also if the caller leaves: run_get tells, run_cancel ends it. What it
    asks meanwhile is put to a client that fills forms (elicitation), and the wait begins anew; to others one
    that asks comes back at once as input_required: run_get shows the question, run_input answers it.
    """
    runs, tell, seconds = call.services.runs, partial(_tell, call), _seconds(call, wait_seconds)
    begin = partial(
        runs.run,
        *(call.principal, agent, input),
        variables=variables,
        conversation=conversation,
        wait_seconds=seconds,
        on_event=tell,
        key=call.key,
    )
    wait = partial(runs.wait, call.principal, wait_seconds=seconds, on_event=tell)
    done = await call.attend(begin, wait)
    if isinstance(done, InputRequiredResult):
        return done
    return RunResult(
        run=done["run"], status=done["status"], output=done["output"], error=done["error"]
    )


def _seconds(call: Call, wanted: float) -> float:
    """Return how long to wait: who follows the run itself need not, and a deadline leaves time to answer."""
    if call.detached:
        return 0
    if call.deadline is None:
        return wanted
    left = call.deadline - asyncio.get_running_loop().time() - MARGIN_SECONDS
    return min(wanted, max(left, 0))


async def _tell(call: Call, event: dict[str, Any]) -> None:
    said = _progress(event)
    if said is not None:
        await call.progress(event["seq"], None, said)


def _progress(event: dict[str, Any]) -> str | None:
    match event["type"]:
        case "status":
            return str(event["status"])
        case "tool_started":
            return f"turn {event['turn']}: {event['name']}"
        case "turn_finished":
            return f"turn {event['turn']} finished"
        case _:
            return None
