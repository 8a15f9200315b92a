"""Streamable HTTP at /mcp, for both eras of the protocol."""

from __future__ import annotations

import math
from typing import Any

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.streamable_http import (
    REQUEST_CANCELLED,
    StreamableHTTPServerTransport,
    check_accept_headers,
)
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from mcp_server.doors import DeclaredRoute
from mcp_server.errors import AppError, InvalidInput
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
    """Bounds the sessions of one key, so that none can take them all from the others.

    The session that was idle longest gives way: many clients never end theirs, and one whose session
    is gone (404) opens another. Only sessions at work are refused a further one.
    """

    def _admit_session(
        self, requestor: AuthorizationContext | None
    ) -> StreamableHTTPServerTransport | None:
        own = [name for name, owner in self._session_owners.items() if owner == requestor]
        if len(own) >= MOST_SESSIONS_PER_KEY:
            idle = [name for name in own if self._idle_until(name) < math.inf]
            if not idle:
                return None
            self._end(min(idle, key=self._idle_until))
        return super()._admit_session(requestor)

    def _idle_until(self, session: str) -> float:
        """Return when an idle session would end by itself; one at work never does."""
        scope = self._server_instances[session].idle_scope
        return math.inf if scope is None else scope.deadline

    def _end(self, session: str) -> None:
        transport = self._server_instances.pop(session)
        del self._session_owners[session]
        if self._task_group is not None:
            self._task_group.start_soon(transport.terminate)


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
        _check_headers(Request(scope))
        work: set[anyio.CancelScope] = set()
        scope[_WORK] = work
        # Without an event store there is nothing to replay, and the SDK would not answer at all.
        scope["headers"] = [item for item in scope["headers"] if item[0] != b"last-event-id"]
        try:
            await self._manager.handle_request(scope, receive, send)
        finally:
            for started in list(work):
                started.cancel()


class NotAcceptable(AppError):
    """The client does not take what the answer may be."""

    code = "invalid_input"
    status = 406


def _check_headers(request: Request) -> None:
    """Say what the SDK only answers with a bare status.

    Raises:
        InvalidInput: the body is not declared as JSON. NotAcceptable: the answer may be a stream.
    """
    takes_json, takes_stream = check_accept_headers(request)
    if request.method == "POST":
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise InvalidInput("send the message as Content-Type: application/json")
        if not (takes_json and takes_stream):
            raise NotAcceptable("send Accept: application/json, text/event-stream")
    elif request.method == "GET" and not takes_stream:
        raise NotAcceptable("send Accept: text/event-stream; messages are POSTed")


def routes(manager: StreamableHTTPSessionManager) -> list[DeclaredRoute]:
    """Return the routes of /mcp. What a message may do is decided where it is done."""
    endpoint = _Endpoint(manager)
    return [
        DeclaredRoute("/mcp", endpoint, methods=["POST", "DELETE"], verb="read", door="mcp"),
        DeclaredRoute("/mcp", endpoint, methods=["GET"], verb="read", door="mcp", streams=True),
    ]
