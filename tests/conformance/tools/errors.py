"""Tools that fail: inside the result, and as an error of the protocol."""

from __future__ import annotations

from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY

from mcp_server.errors import InvalidInput
from mcp_server.plugins import tool


@tool()
async def test_error_handling() -> str:
    """Fail with a message that the client may see."""
    raise InvalidInput("This tool intentionally returns an error for testing")


@tool()
async def test_missing_capability(context: Context) -> str:
    """Refuse a client that did not declare `sampling` (SEP-2575: error -32021)."""
    capabilities = context.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool needs a client that declares the capability 'sampling'",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "The client declares sampling."
