"""Agents and runs as resources."""

from __future__ import annotations

from mcp_server.plugins import Call, resource
from mcp_server.services.agents import AgentItem
from mcp_server.services.runs import RunItem


@resource("agent://{name}", mime_type="application/json")
async def agent(call: Call, name: str) -> AgentItem:
    """An agent's definition."""
    return await call.services.agents.get(call.principal, name)


@resource("run://{id}", mime_type="application/json")
async def run(call: Call, id: str) -> RunItem:  # noqa: A002  the contract's name
    """A run: its status, output and usage."""
    return await call.services.runs.get(call.principal, id)
