"""Tells the MCP SDK who sends a request: it lets nobody but the one who began a session go on with it."""

from __future__ import annotations

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken

from mcp_server.auth.principal import Principal


def sdk_user(principal: Principal) -> AuthenticatedUser:
    """Return what the SDK expects as `user` in the scope of a request."""
    token = AccessToken(
        token="",  # the secret goes no further than the door
        client_id=principal.key_id or "owner",
        scopes=sorted(principal.scopes),
        subject=f"{principal.tenant}/{principal.subject}",
    )
    return AuthenticatedUser(token)
