"""Runs as resources."""

from __future__ import annotations

from mcp_server.plugins import Call, resource
from mcp_server.services.runs import RunRecord


@resource("run://{id}", mime_type="application/json")
async def run(call: Call, id: str) -> RunRecord:  # noqa: A002  the contract's name
    """A run: its status, output, usage, what it asks, and its newest events."""
    return await call.services.runs.record(call.principal, id)
