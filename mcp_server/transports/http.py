"""Streamable HTTP at /mcp, for both eras of the protocol."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.server.auth.middleware.bearer_auth import (
    AuthenticatedUser,
    AuthorizationContext,
    authorization_context,
)
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.streamable_http import (
    MCP_SESSION_ID_HEADER,
    REQUEST_CANCELLED,
    StreamableHTTPServerTransport,
    check_accept_headers,
)
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from mcp_server.auth.callers import shown_pass
from mcp_server.doors import DeclaredRoute
from mcp_server.errors import AppError, InvalidInput
from mcp_server.invocation import Invocation, invoking
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


@dataclass(frozen=True, slots=True)
class _Stream:
    """A session's own stream, open at GET /mcp."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)


class _Sessions(StreamableHTTPSessionManager):
    """Bounds the sessions of one key, so that none can take them all from the others.

    The session that was idle longest gives way: many clients never end theirs, and one whose session
    is gone (404) opens another. Only sessions at work are refused a further one.

    A client that lost its session's own stream opens it again before the server has noticed the loss:
    the new one takes the old one's place. The SDK would refuse it, or close it with the old one.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._streams: dict[str, _Stream] = {}

    async def _handle_stateful_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = self._own_session(scope) if scope["method"] == "GET" else None
        if session is None:
            await super()._handle_stateful_request(scope, receive, send)
            return
        own, before = _Stream(), self._streams.get(session)
        self._streams[session] = own
        try:
            if before is not None:
                before.scope.cancel()
                await before.ended.wait()
            await self._stream(own, scope, receive, send)
        finally:
            own.ended.set()
            if self._streams[session] is own:
                del self._streams[session]

    async def _stream(self, own: _Stream, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        with own.scope:
            await super()._handle_stateful_request(scope, receive, watched)
            return
        if started:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            replaced = PlainTextResponse("another stream of this session took over", 409)
            await replaced(scope, receive, send)

    def _own_session(self, scope: Scope) -> str | None:
        """Return the session that a request names, None unless there is one and it is the sender's."""
        session = Request(scope).headers.get(MCP_SESSION_ID_HEADER)
        if session is None or session not in self._server_instances:
            return None
        user = scope.get("user")
        sender = authorization_context(user) if isinstance(user, AuthenticatedUser) else None
        return session if sender == self._session_owners.get(session) else None

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
            with invoking(_invocation(scope)):
                await self._manager.handle_request(scope, receive, send)
        finally:
            for started in list(work):
                started.cancel()


def _invocation(scope: Scope) -> Invocation:
    """Return what the caller adds to its request: another process's was counted at its own door."""
    shown = shown_pass(scope)
    if shown is None:
        return Invocation()
    deadline = None if shown.seconds is None else anyio.current_time() + shown.seconds
    return Invocation(shown.key, deadline, metered=False, by_model=shown.by_model)


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
        DeclaredRoute(
            "/mcp", endpoint, methods=["POST", "DELETE"], verb="read", door="mcp", passes=True
        ),
        DeclaredRoute("/mcp", endpoint, methods=["GET"], verb="read", door="mcp", streams=True),
    ]
