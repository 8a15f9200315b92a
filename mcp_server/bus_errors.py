"""What an MCP error means to a caller inside the deployment."""

from __future__ import annotations

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from mcp_server.boundary import RATE_LIMITED
from mcp_server.errors import (
    AppError,
    Conflict,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Timeout,
    Unavailable,
)

_BY_CODE: dict[str, type[AppError]] = {
    kind.code: kind
    for kind in (InvalidInput, Forbidden, NotFound, Conflict, LimitExceeded, Unavailable, Timeout)
}


def app_error(error: MCPError) -> AppError:
    """Return the failure that the server put into the protocol's words: `CODE: message`."""
    message, data = error.error.message, error.error.data
    if error.error.code == RATE_LIMITED:
        return LimitExceeded(message, retry_after=data["retry_after_seconds"])
    known = _known(message)
    if known is None and error.error.code == INVALID_PARAMS:
        return (NotFound if message.startswith("Unknown ") else InvalidInput)(message)
    return known or Unavailable(message)


def told_error(text: str) -> AppError:
    """Return the failure that a tool told as the text of its result."""
    return _known(text) or Unavailable(text)


def _known(message: str) -> AppError | None:
    code, colon, rest = message.partition(": ")
    return _BY_CODE[code](rest) if colon and code in _BY_CODE else None
