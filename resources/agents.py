"""Agents as resources."""

from __future__ import annotations

from mcp_types import CompletionArgument, CompletionContext

from mcp_server.errors import Forbidden
from mcp_server.plugins import Call, complete, resource
from mcp_server.services.agent_items import AgentItem


@resource("agent://{name}", mime_type="application/json")
async def agent(call: Call, name: str) -> AgentItem:
    """An agent's definition."""
    return await call.services.agents.get(call.principal, name)


@complete("agent://{name}")
async def names(
    argument: CompletionArgument, context: CompletionContext | None, call: Call
) -> list[str]:
    """The names of the agents that the caller may see."""
    del context
    try:
        page = await call.services.agents.list(call.principal)
    except Forbidden:  # to whoever may read no agents, there are none
        return []
    return [item["name"] for item in page["items"] if item["name"].startswith(argument.value)]
