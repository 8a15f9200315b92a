"""The rows of agents, for operations that are already open; and what an agent is called."""

from __future__ import annotations

from typing import Literal, TypeAlias

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import Conflict, InvalidInput, NotFound
from mcp_server.services import names
from mcp_server.services.agent_items import AgentItem, read_item
from mcp_server.storage.sql.agent_tables import agents

Face: TypeAlias = Literal["tool", "prompt"]
# Labels in the journal.
TOOLS_CHANGED = "tools/list_changed"
PROMPTS_CHANGED = "prompts/list_changed"


async def load_agent(control: AsyncEngine, tenant: str, name: str) -> AgentItem:
    """Read one definition.

    Raises:
        NotFound: there is no such agent.
    """
    async with control.connect() as tx:
        found = await find_agent(tx, tenant, name)
    if found is None:
        raise missing_agent(name)
    return found


async def find_agent(tx: AsyncConnection, tenant: str, name: str) -> AgentItem | None:
    """Read one definition in the caller's transaction, None if there is no such agent."""
    query = select(agents).where(agents.c.tenant == tenant, agents.c.name == name)
    row = (await tx.execute(query)).first()
    return None if row is None else read_item(row)


async def load_shown(control: AsyncEngine, tenant: str, face: Face) -> list[AgentItem]:
    """Read the definitions that are shown as tools or as prompts now, in the order of their names.

    A paused agent is no tool, as no run of it can begin.
    """
    shown = {
        "tool": and_(agents.c.as_tool, agents.c.paused_at.is_(None)),
        "prompt": agents.c.as_prompt,
    }
    query = select(agents).where(agents.c.tenant == tenant, shown[face])
    async with control.connect() as tx:
        return [read_item(row) for row in await tx.execute(query.order_by(agents.c.name))]


async def is_paused(tx: AsyncConnection, tenant: str, name: str) -> bool:
    """Tell whether there is such an agent, and no new run of it may begin."""
    at = and_(agents.c.tenant == tenant, agents.c.name == name, agents.c.paused_at.is_not(None))
    return await tx.scalar(select(agents.c.version).where(at)) is not None


def refuse_paused(agent: AgentItem) -> None:
    """Return if new runs of the agent may begin.

    Raises:
        Conflict: it is paused.
    """
    if agent["paused"]:
        raise Conflict(f"agent {agent['name']!r} is paused; agent_resume lets new runs begin")


def missing_agent(name: str) -> NotFound:
    return NotFound(f"agent {name!r} does not exist; agent_list shows those that do")


def lists_changed(*, tools: bool, prompts: bool) -> list[str]:
    """Return the labels with which a change of an agent tells that lists of its tenant changed."""
    return [TOOLS_CHANGED] * tools + [PROMPTS_CHANGED] * prompts


def agent_uri(name: str) -> str:
    """Return the URI of an agent; its name is a part of a path, so it holds no slash.

    Raises:
        InvalidInput: it is no name.
    """
    if "/" in names.container(name, "name"):
        raise InvalidInput(f"name: {name!r} holds a slash; use . _ or - instead", param="name")
    return f"agent://{name}"
