"""The journal as a tool."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mcp_server.plugins import Call, tool
from mcp_server.services.changes import ChangePage


@tool(verb="read", read_only=True, destructive=False)
async def changes(
    call: Call,
    after: Annotated[str | None, Field(description="next_after of an earlier call")] = None,
    filter: Annotated[  # noqa: A002  the contract's name
        dict[str, Any] | None,
        Field(
            description="{type: eq|ne|gt|gte|lt|lte|in|nin, key: uri|verb|version|subject|run, value}"
        ),
    ] = None,
    limit: int | None = None,
) -> ChangePage:
    """List what changed, oldest first."""
    return await call.services.changes.list(call.principal, after=after, filter=filter, limit=limit)
