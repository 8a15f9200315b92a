"""Streamable HTTP at /mcp, for both eras of the protocol."""

from __future__ import annotations

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import Receive, Scope, Send

from mcp_server.doors import DeclaredRoute
from mcp_server.server import IsthmusServer

# Host and Origin are checked for every route of the app, before any of them (host_guard.py).
_CHECKED_BEFORE = TransportSecuritySettings(enable_dns_rebinding_protection=False)


def session_manager(server: IsthmusServer, max_body_bytes: int) -> StreamableHTTPSessionManager:
    """Return the manager of handshake-era sessions; the 2026-07-28 era has none.

    There is no event store: the SDK hands one store to every session and keys it by request id alone, so
    one session could replay what another received.
    """
    return StreamableHTTPSessionManager(
        app=server._lowlevel_server,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the SDK builds it only inside an app of its own
        event_store=None,
        json_response=False,
        stateless=False,
        security_settings=_CHECKED_BEFORE,
        max_request_body_size=max_body_bytes,
    )


class _Endpoint:
    """An ASGI application: Starlette takes functions for request handlers."""

    def __init__(self, manager: StreamableHTTPSessionManager) -> None:
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._manager.handle_request(scope, receive, send)


def routes(manager: StreamableHTTPSessionManager) -> list[DeclaredRoute]:
    """Return the routes of /mcp. What a message may do is decided where it is done."""
    endpoint = _Endpoint(manager)
    return [
        DeclaredRoute("/mcp", endpoint, methods=["POST", "DELETE"], verb="read", door="mcp"),
        DeclaredRoute("/mcp", endpoint, methods=["GET"], verb="read", door="mcp", streams=True),
    ]
