"""The older transport: a stream at /sse, messages to /messages/."""

from __future__ import annotations

import logging
from typing import Any

import anyio
from mcp.server.runner import serve_dual_era_loop
from mcp.server.sse import SseServerTransport
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import Receive, Scope, Send

from mcp_server.doors import DeclaredRoute
from mcp_server.server import IsthmusServer

logger = logging.getLogger(__name__)

_CHECKED_BEFORE = TransportSecuritySettings(enable_dns_rebinding_protection=False)


class _Stream:
    """GET /sse: one connection, served until the client leaves.

    The SDK's own endpoint would open the server's lifespan once per connection; here everything was
    opened with the app. Each message runs in the context of its POST, so as the principal of that POST.
    """

    def __init__(self, server: IsthmusServer, transport: SseServerTransport) -> None:
        self._lowlevel = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._transport.connect_sse(scope, receive, send) as (incoming, outgoing):
            state: dict[str, Any] = {}
            await serve_dual_era_loop(self._lowlevel, incoming, outgoing, lifespan_state=state)


class _Messages:
    """POST /messages/?session_id=…"""

    def __init__(self, transport: SseServerTransport) -> None:
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._transport.handle_post_message(scope, receive, send)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            # The message was accepted, and then its connection ended before it was handed over.
            logger.debug("dropped a message of a connection that ended")


def routes(server: IsthmusServer, max_body_bytes: int) -> list[DeclaredRoute]:
    """Return the routes of the older transport."""
    transport = SseServerTransport(
        "/messages/", _CHECKED_BEFORE, max_request_body_size=max_body_bytes
    )
    stream, messages = _Stream(server, transport), _Messages(transport)
    return [
        DeclaredRoute("/sse", stream, methods=["GET"], verb="read", door="mcp", streams=True),
        DeclaredRoute("/messages/", messages, methods=["POST"], verb="read", door="mcp"),
    ]
