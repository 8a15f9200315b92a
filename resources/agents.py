"""Agents as resources."""

from __future__ import annotations

from mcp_server.plugins import Call, resource
from mcp_server.services.agent_items import AgentItem


@resource("agent://{name}", mime_type="application/json")
async def agent(call: Call, name: str) -> AgentItem:
    """An agent's definition."""
    return await call.services.agents.get(call.principal, name)
