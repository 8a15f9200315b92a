"""MCP over this process's stdin and stdout, as the local owner."""

from __future__ import annotations

from typing import Any

from mcp.server.runner import serve_dual_era_loop
from mcp.server.stdio import stdio_server

from mcp_server.auth.principal import OWNER, acting_as
from mcp_server.server import IsthmusServer


async def serve_stdio(server: IsthmusServer) -> None:
    """Serve until the client closes our stdin."""
    lowlevel = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  `run` would open its lifespan again
    state: dict[str, Any] = {}
    with acting_as(OWNER):
        async with stdio_server() as (incoming, outgoing):
            await serve_dual_era_loop(lowlevel, incoming, outgoing, lifespan_state=state)
