"""Streamable HTTP at /mcp, for both eras of the protocol."""

from __future__ import annotations

from typing import Any

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.streamable_http import REQUEST_CANCELLED, StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from starlette.types import Receive, Scope, Send

from mcp_server.doors import DeclaredRoute
from mcp_server.server import IsthmusServer

# Host and Origin are checked for every route of the app, before any of them (host_guard.py).
_CHECKED_BEFORE = TransportSecuritySettings(enable_dns_rebinding_protection=False)

# A session that nobody uses ends after half an hour; until then it holds some 75 KB.
MOST_SESSIONS_PER_KEY = 256

# Where an HTTP request keeps the work that it started.
_WORK = "isthmus.work"


def session_manager(server: IsthmusServer, max_body_bytes: int) -> StreamableHTTPSessionManager:
    """Return the manager of handshake-era sessions; the 2026-07-28 era has none.

    There is no event store: the SDK hands one store to every session and keys it by request id alone, so
    one session could replay what another received.
    """
    server.middleware.append(_end_with_its_request)
    return _Sessions(
        app=server._lowlevel_server,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the SDK builds it only inside an app of its own
        event_store=None,
        json_response=False,
        stateless=False,
        security_settings=_CHECKED_BEFORE,
        max_request_body_size=max_body_bytes,
    )


class _Sessions(StreamableHTTPSessionManager):
    """Bounds the sessions of one key, so that none can take them all from the others."""

    def _admit_session(
        self, requestor: AuthorizationContext | None
    ) -> StreamableHTTPServerTransport | None:
        own = sum(owner == requestor for owner in self._session_owners.values())
        return None if own >= MOST_SESSIONS_PER_KEY else super()._admit_session(requestor)


async def _end_with_its_request(
    ctx: ServerRequestContext[Any, Any], call_next: CallNext
) -> HandlerResult:
    """Let the HTTP request that brought a message end the work for it.

    A session of the handshake era works in a task of its own, which outlives the request: a client that
    went away, or a key that died, would leave its tool running. Without an event store nobody could
    ever read the answer.
    """
    work: set[anyio.CancelScope] | None = None
    if ctx.request is not None and ctx.request_id is not None:
        work = ctx.request.scope.get(_WORK)
    if work is None:
        return await call_next(ctx)
    with anyio.CancelScope() as scope:
        work.add(scope)
        try:
            return await call_next(ctx)
        finally:
            work.discard(scope)
    raise MCPError(code=REQUEST_CANCELLED, message="Request cancelled")


class _Endpoint:
    """An ASGI application: Starlette takes functions for request handlers."""

    def __init__(self, manager: StreamableHTTPSessionManager) -> None:
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work: set[anyio.CancelScope] = set()
        scope[_WORK] = work
        # Without an event store there is nothing to replay, and the SDK would not answer at all.
        scope["headers"] = [item for item in scope["headers"] if item[0] != b"last-event-id"]
        try:
            await self._manager.handle_request(scope, receive, send)
        finally:
            for started in list(work):
                started.cancel()


def routes(manager: StreamableHTTPSessionManager) -> list[DeclaredRoute]:
    """Return the routes of /mcp. What a message may do is decided where it is done."""
    endpoint = _Endpoint(manager)
    return [
        DeclaredRoute("/mcp", endpoint, methods=["POST", "DELETE"], verb="read", door="mcp"),
        DeclaredRoute("/mcp", endpoint, methods=["GET"], verb="read", door="mcp", streams=True),
    ]
