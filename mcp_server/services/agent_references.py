"""That the vector stores and the sub-agents which a definition names are there for whoever saves it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server import policy
from mcp_server.agents.definitions import AgentDefinition
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.services.agent_checks import unknown
from mcp_server.storage.sql.agent_tables import agents
from mcp_server.storage.sql.schema import STORE_EXPIRED, vector_stores

# Two agents that are saved at once must not come to name each other.
_LOCK = text("select pg_advisory_xact_lock(hashtextextended('agents of ' || :tenant, 0))")


async def hold_references(tx: AsyncConnection, tenant: str, definition: AgentDefinition) -> None:
    """Keep other definitions with sub-agents from being saved until `tx` ends, if this one has some."""
    if definition.agents:
        await tx.execute(_LOCK, {"tenant": tenant})


async def check_stores(
    tx: AsyncConnection, principal: Principal, definition: AgentDefinition
) -> None:
    """Return if the principal may read something in each of the definition's stores.

    Raises:
        InvalidInput: not so; it tells those that it may read.
    """
    if not definition.stores:
        return
    query = select(vector_stores.c.id, vector_stores.c.name).where(
        vector_stores.c.tenant == principal.tenant, STORE_EXPIRED.is_(False)
    )
    readable = [
        row
        for row in (await tx.execute(query.order_by(vector_stores.c.name))).all()
        if policy.allows(principal, "read", policy.Listing(f"vector://{row.name}/"))
    ]
    known = {row.name for row in readable} | {row.id for row in readable}
    for store in definition.stores:
        if store not in known:
            raise InvalidInput(unknown("stores", store, [r.name for r in readable]), param="stores")


async def check_agents(
    tx: AsyncConnection, principal: Principal, definition: AgentDefinition
) -> None:
    """Return if the principal may run each of the sub-agents, and none of them leads back to this agent.

    Raises:
        InvalidInput: not so; it tells those that it may run, or the way back.
    """
    if not definition.agents:
        return
    own = select(agents.c.name).where(agents.c.tenant == principal.tenant).order_by(agents.c.name)
    runnable = [
        name
        for name in (await tx.execute(own)).scalars()
        if name != definition.name and policy.allows(principal, "run", f"agent://{name}")
    ]
    known = frozenset(runnable)
    for name in definition.agents:
        if name == definition.name:
            raise InvalidInput(f"agents: {name!r} would run itself; leave it out", param="agents")
        if name not in known:
            raise InvalidInput(unknown("agents", name, runnable), param="agents")
    await _refuse_cycle(tx, principal.tenant, definition)


async def _refuse_cycle(tx: AsyncConnection, tenant: str, definition: AgentDefinition) -> None:
    ways: dict[str, list[str]] = {name: [definition.name, name] for name in definition.agents}
    reached = [*definition.agents]
    while reached:
        found = await _subagents(tx, tenant, reached)
        reached = list[str]()
        for name, further in found:
            for each in further:
                if each == definition.name:
                    way = " -> ".join([*ways[name], each])
                    raise InvalidInput(
                        f"agents: the agent would run itself through its sub-agents ({way})",
                        param="agents",
                    )
                if each not in ways:
                    ways[each] = [*ways[name], each]
                    reached.append(each)


async def _subagents(
    tx: AsyncConnection, tenant: str, names: Sequence[str]
) -> list[tuple[str, list[str]]]:
    query = select(agents.c.name, agents.c.definition).where(
        agents.c.tenant == tenant, agents.c.name.in_(names)
    )
    rows = (await tx.execute(query)).all()
    return [(row.name, row.definition.get("agents", [])) for row in rows]
