"""The models as a tool."""

from __future__ import annotations

from mcp_server.plugins import Call, tool
from mcp_server.services.models import ModelPage


@tool(verb="read", read_only=True, destructive=False)
async def model_list(call: Call) -> ModelPage:
    """List the language and embedding models and whether they answer."""
    return await call.services.models.list(call.principal)
