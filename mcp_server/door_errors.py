"""How an error leaves by HTTP: what only a door can refuse, and the form of it that each door speaks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from mcp_server.errors import AppError, NotFound, Unavailable

Door = Literal["mcp", "openai", "plain"]
Renderer = Callable[[AppError, Scope], Response]

# JSON-RPC 2.0: the request was refused as such, or the server failed at it.
INVALID_REQUEST, INTERNAL_ERROR = -32600, -32603


class BodyTooLarge(AppError):
    """The request's body is over MAX_BODY_BYTES."""

    code = "invalid_input"
    status = 413


class Busy(Unavailable):
    """The server holds as much as it may; `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Stalled(AppError):
    """The request's body came to a stop in the middle."""

    code = "timeout"
    status = 408
    retryable = True


class ClientLeft(AppError):
    """Nobody is there to answer; the status is nginx's for it, and only counted."""

    code = "cancelled"
    status = 499


class MethodNotAllowed(AppError):
    """The path exists, but not with this method; `allow` is the value of the Allow header."""

    code = "invalid_input"
    status = 405

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


def render_plain(error: AppError, scope: Scope) -> Response:
    """Return `{error: CODE, message}`."""
    del scope
    body = {"error": error.code, "message": error.message}
    return JSONResponse(body, status_code=error.status, headers=_headers(error))


def render_mcp(error: AppError, scope: Scope) -> Response:
    """Return a JSON-RPC error without an id, as Streamable HTTP has it for what it cannot accept.

    Clients show its message; of another body they would tell the user only that there was an error.
    """
    del scope
    code = INVALID_REQUEST if error.status < 500 else INTERNAL_ERROR
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": str(error)}}
    return JSONResponse(body, status_code=error.status, headers=_headers(error))


async def render_unknown_path(request: Request, _: Exception) -> Response:
    """Answer for a path that no route has."""
    path = request.scope["path"]
    message = f"there is nothing at {path[:200]!r}; MCP is served at /mcp and /sse, OpenAI at /v1"
    return render_plain(NotFound(message), request.scope)


def _headers(error: AppError) -> dict[str, str] | None:
    if isinstance(error, MethodNotAllowed):
        return {"Allow": error.allow}
    if isinstance(error, Busy):
        return {"Retry-After": str(math.ceil(error.retry_after))}
    # RFC 9110: whoever is sent away for want of a key is told the scheme.
    return {"WWW-Authenticate": 'Bearer realm="isthmus"'} if error.status == 401 else None
