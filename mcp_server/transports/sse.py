"""The older transport: a stream at /sse, messages to /messages/."""

from __future__ import annotations

import logging
import re
from contextlib import nullcontext
from typing import Any
from uuid import UUID

import anyio
from mcp.server.runner import serve_dual_era_loop
from mcp.server.sse import SseServerTransport
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import QueryParams
from starlette.types import Message, Receive, Scope, Send

from mcp_server.doors import DeclaredRoute
from mcp_server.server import IsthmusServer
from mcp_server.transports.backlog import Backlog, Outbox, count_in_progress

logger = logging.getLogger(__name__)

_CHECKED_BEFORE = TransportSecuritySettings(enable_dns_rebinding_protection=False)


# The first event of a connection tells its client the session, as it tells us.
_SESSION = re.compile(rb"session_id=([0-9a-f]{32})")


class _Stream:
    """GET /sse: one connection, served until the client leaves.

    The SDK's own endpoint would open the server's lifespan once per connection; here everything was
    opened with the app. Each message runs in the context of its POST, so as the principal of that POST.
    """

    def __init__(
        self, server: IsthmusServer, transport: SseServerTransport, backlogs: dict[str, Backlog]
    ) -> None:
        self._lowlevel = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._transport = transport
        self._backlogs = backlogs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        backlog, session = Backlog(), ""

        async def note_session(message: Message) -> None:
            nonlocal session
            if not session and (found := _SESSION.search(message.get("body", b""))):
                session = found[1].decode()
                self._backlogs[session] = backlog
            await send(message)

        try:
            async with self._transport.connect_sse(scope, receive, note_session) as streams:
                incoming, outgoing = streams[0], Outbox(streams[1], backlog)
                state: dict[str, Any] = {}
                await serve_dual_era_loop(self._lowlevel, incoming, outgoing, lifespan_state=state)
        finally:
            self._backlogs.pop(session, None)


class _Messages:
    """POST /messages/?session_id=…"""

    def __init__(self, transport: SseServerTransport, backlogs: dict[str, Backlog]) -> None:
        self._transport = transport
        self._backlogs = backlogs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        backlog = self._backlogs.get(_session_of(scope))
        try:
            with backlog.arriving(scope) if backlog else nullcontext():
                await self._transport.handle_post_message(scope, receive, send)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            # The message was accepted, and then its connection ended before it was handed over.
            logger.debug("dropped a message of a connection that ended")


def _session_of(scope: Scope) -> str:
    """Return the session that a POST names, however it writes it; the SDK takes a UUID in any form."""
    named = QueryParams(scope["query_string"]).get("session_id", "")
    try:
        return UUID(hex=named).hex
    except ValueError:
        return ""


def routes(server: IsthmusServer, max_body_bytes: int) -> list[DeclaredRoute]:
    """Return the routes of the older transport."""
    transport = SseServerTransport(
        "/messages/", _CHECKED_BEFORE, max_request_body_size=max_body_bytes
    )
    server.middleware.append(count_in_progress)
    backlogs: dict[str, Backlog] = {}
    stream, messages = _Stream(server, transport, backlogs), _Messages(transport, backlogs)
    return [
        DeclaredRoute("/sse", stream, methods=["GET"], verb="read", door="mcp", streams=True),
        DeclaredRoute("/messages/", messages, methods=["POST"], verb="read", door="mcp"),
    ]
