"""The one place where an error becomes OpenAI's error envelope."""

from __future__ import annotations

import math
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Scope

from mcp_server.door_errors import Busy
from mcp_server.errors import AppError, LimitExceeded, Unauthenticated
from mcp_server.llm import UpstreamError
from openai_facade.identity import response_headers
from openai_facade.wire.faults import InvalidRequest

Header = tuple[bytes, bytes]

_INVALID = "invalid_request_error"
_SERVER = "server_error"

# AppError.code -> (type, code) of the envelope.
_KINDS: dict[str, tuple[str, str]] = {
    "invalid_input": (_INVALID, "invalid_value"),
    "unauthenticated": (_INVALID, "invalid_api_key"),
    "forbidden": (_INVALID, "insufficient_permissions"),
    "not_found": (_INVALID, "not_found"),
    "conflict": (_INVALID, "conflict"),
    "limit_exceeded": ("rate_limit_error", "rate_limit_exceeded"),
    "unavailable": (_SERVER, "unavailable"),
    "timeout": (_SERVER, "timeout"),
}

# What an upstream says of the credentials that this server holds is nobody's business at the door:
# the text may show a part of the key, and 401 would tell an SDK that the caller's own key is bad.
_OUR_CREDENTIALS = frozenset({401, 402, 403, 407})
_BAD_GATEWAY = 502
_TOO_LARGE = 413


class UnknownUrlError(AppError):
    """No such path under /v1."""

    code = "not_found"
    status = 404


class MethodNotAllowedError(AppError):
    """The path exists, but not with this method; `allow` is the value of the Allow header."""

    code = "invalid_input"
    status = 405

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


def envelope(error: AppError) -> dict[str, Any]:
    """Give `{"error": {message, type, param, code}}`, all four keys always there."""
    if isinstance(error, UpstreamError):
        body = _upstream(error)
    else:
        kind, code = _KINDS.get(error.code, (_SERVER, "internal"))
        body = {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": _wire_code(error, code),
        }
    return {"error": body}


def defect() -> dict[str, Any]:
    """The envelope of a failure that nobody foresaw: it tells nothing of the inside."""
    message = (
        "The server had an error while processing your request. Retry it, and if it fails again "
        "give the operator the x-request-id of this answer."
    )
    return {"error": {"message": message, "type": _SERVER, "param": None, "code": "internal"}}


def status_of(error: AppError) -> int:
    """Give the HTTP status: the error's own, but 502 where an upstream refused our credentials."""
    if isinstance(error, UpstreamError) and error.status in _OUR_CREDENTIALS:
        return _BAD_GATEWAY
    return error.status


def headers_of(error: AppError) -> list[Header]:
    """Give the headers that tell a client whether, and when, to try again."""
    if isinstance(error, MethodNotAllowedError):
        return [(b"allow", error.allow.encode("latin-1"))]
    if isinstance(error, Unauthenticated):
        return [(b"www-authenticate", b'Bearer realm="isthmus"')]
    if not isinstance(error, LimitExceeded | UpstreamError | Busy):
        return []
    if error.retry_after is not None:
        seconds = max(1, math.ceil(error.retry_after))
        millis = max(1, math.ceil(error.retry_after * 1000))
        return [
            (b"retry-after", str(seconds).encode()),
            (b"retry-after-ms", str(millis).encode()),
        ]
    # A budget that no waiting refills: the SDKs would retry every 429 twice.
    return [(b"x-should-retry", b"false")] if isinstance(error, LimitExceeded) else []


def render(error: AppError, scope: Scope) -> Response:
    """Answer a request under /v1 with `error`: for what fails before a route of ours runs."""
    response = Response(
        orjson.dumps(envelope(error)), status_code=status_of(error), media_type="application/json"
    )
    response.raw_headers.extend([*response_headers(scope), *headers_of(error)])
    return response


def _wire_code(error: AppError, otherwise: str) -> str | None:
    if isinstance(error, InvalidRequest):
        return error.wire_code
    if isinstance(error, UnknownUrlError):
        return "unknown_url"
    if isinstance(error, MethodNotAllowedError):
        return "method_not_allowed"
    if error.code == "not_found" and error.param == "model":
        return "model_not_found"
    if error.status == _TOO_LARGE:
        return "request_too_large"
    return otherwise


def _upstream(error: UpstreamError) -> dict[str, Any]:
    if error.status in _OUR_CREDENTIALS:
        return {
            "message": f"The model at {error.upstream} refused the credentials of this server "
            f"(status {error.status}); its operator has to mend ISTHMUS_LLM_API_KEY.",
            "type": _SERVER,
            "param": None,
            "code": "upstream_refused",
        }
    told = {name: _text(error.body.get(name)) for name in ("type", "param", "code")}
    if told["type"] is None:
        told["type"] = _SERVER if error.status >= 500 else _INVALID
    return {"message": error.message, **told}


def _text(value: object) -> str | None:
    """Keep what the wire format allows: upstreams send numbers and objects too."""
    return value if isinstance(value, str) else None
