"""What an agent may make or start: nothing that can do more than itself, or do without the approvals that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import String, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import Forbidden
from mcp_server.function_names import SEARCH_FUNCTION, agent_function
from mcp_server.operation import Operation
from mcp_server.services.agent_items import AgentItem
from mcp_server.storage.sql.run_tables import runs

Definition = Mapping[str, Any]

# The run itself and those that started one another above it.
_ABOVE = text(
    """
    with recursive up as (
        select id, origin, 1 as depth from runs where tenant = :tenant and id = :run
        union all
        select above.id, above.origin, depth + 1
        from up join runs above on above.tenant = :tenant and above.id = substr(up.origin, 7)
        where starts_with(up.origin, 'run://') and depth < 100)
    select id, depth from up
    """
).columns(id=String())
_NAMED = ("tools", "agents", "stores")


async def agents_above(tx: AsyncConnection, op: Operation) -> list[Definition]:
    """Return the definitions of the agents in whose runs an operation is done, nearest first."""
    if op.lease is None:
        return []
    tenant = op.principal.tenant
    above = list(await tx.scalars(_ABOVE, {"tenant": tenant, "run": op.lease.run}))
    query = select(runs.c.id, runs.c.definition).where(
        runs.c.tenant == tenant, runs.c.kind == "agent", runs.c.id.in_(above)
    )
    found = {row.id: row.definition for row in await tx.execute(query)}
    return [found[run] for run in above if run in found]


async def check_made(tx: AsyncConnection, op: Operation, made: Definition) -> None:
    """Return if a definition is saved by no agent, or by one that has all of it itself.

    Raises:
        Forbidden: it names what the agent has not, or leaves out an approval that the agent needs.
    """
    makers = await agents_above(tx, op)
    for part in _NAMED if makers else ():
        for name in made.get(part) or ():
            if name not in (makers[0].get(part) or ()):
                raise Forbidden(f"{part}: an agent cannot give another one {name!r}: it has it not")
    _check_approvals(makers, made)


async def check_started(tx: AsyncConnection, op: Operation, target: Definition) -> None:
    """Return if an agent may be started later, on its own, in the name of whoever saves this.

    Raises:
        Forbidden: an agent saves it that needs an approval which the other does without.
    """
    _check_approvals(await agents_above(tx, op), target)


async def check_started_tool(tx: AsyncConnection, op: Operation, tool: str) -> None:
    """Return if a tool may be called later, on its own, in the name of whoever saves this.

    Raises:
        Forbidden: an agent saves it that has not the tool, or needs an approval for it.
    """
    makers = await agents_above(tx, op)
    if makers and tool not in makers[0]["tools"]:
        raise Forbidden(f"work.tool: an agent cannot have {tool!r} called: it has it not")
    if tool in _approvals(makers):
        raise Forbidden(f"work.tool: each call of {tool!r} waits for a person's approval")


async def with_approvals(tx: AsyncConnection, op: Operation, target: AgentItem) -> AgentItem:
    """Return the definition for a run that an agent's run starts: it needs the approvals of that one, too."""
    more = _approvals(await agents_above(tx, op)) - set(target["approve"])
    target["approve"] = [*target["approve"], *(name for name in _callable(target) if name in more)]
    return target


def _check_approvals(makers: Sequence[Definition], made: Definition) -> None:
    without = (_approvals(makers) & set(_callable(made))) - set(made["approve"])
    if without:
        raise Forbidden(
            f"approve: each call of {min(without)!r} waits for a person's approval; the other agent "
            "would do without"
        )


def _callable(definition: Mapping[str, Any]) -> list[str]:
    """Return what an approval may name: tools, and the functions of sub-agents and stores."""
    asked = [agent_function(name) for name in definition.get("agents") or ()]
    searched = [SEARCH_FUNCTION] if definition.get("stores") else []
    return [*definition["tools"], *asked, *searched]


def _approvals(makers: Sequence[Definition]) -> set[str]:
    return {tool for maker in makers for tool in maker.get("approve") or ()}
