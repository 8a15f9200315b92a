"""Models as resources."""

from __future__ import annotations

from mcp_server.plugins import Call, resource
from mcp_server.services.models import ModelItem


@resource("model://{+id}", mime_type="application/json")
async def model(call: Call, id: str) -> ModelItem:  # noqa: A002  the contract's name
    """One model: what it can do, where it runs, whether it answers."""
    return await call.services.models.get(call.principal, id)
