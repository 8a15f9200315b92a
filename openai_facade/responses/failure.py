"""Why a response failed, as it says so itself and as its stream does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_server.errors import AppError
from openai_facade.errors import envelope


def failure_of(error: AppError) -> tuple[str, str, Mapping[str, Any]]:
    """Give the code and text of a response's `error`, and the body of the error event."""
    body = envelope(error)["error"]
    if error.status == 429:
        return "rate_limit_exceeded", body["message"], body
    code = "server_error" if error.status >= 500 else "invalid_prompt"
    return code, body["message"], body
