"""Turn the many shapes in which upstreams refuse into OpenAI's error object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mcp_server.llm import UpstreamError

_LONGEST_TEXT = 500
_CONTEXT_TYPES = {"exceed_context_size_error"}  # llama-server


def refusal(
    payload: object, status: int, upstream: str, retry_after: float | None = None
) -> UpstreamError:
    """Build the error for `payload`: `{"error": {...}}`, `{"error": "..."}`, `{"message": ...}`, `{"detail": ...}` or text."""
    body = _error_object(payload)
    if body.get("type") in _CONTEXT_TYPES:
        body = {**body, "type": "invalid_request_error", "code": "context_length_exceeded"}
    if not isinstance(body.get("code"), str):
        body = {**body, "code": None}  # vLLM and llama-server repeat the status here
    return UpstreamError(status, body, upstream=upstream, retry_after=retry_after)


def refusal_in_stream(payload: Mapping[str, Any], upstream: str) -> UpstreamError:
    """Build the error for an error object that came instead of a chunk, after status 200."""
    code: object = _error_object(payload).get("code")
    status = code if isinstance(code, int) and 400 <= code <= 599 else 502
    return refusal(payload, status, upstream)


def _error_object(payload: object) -> dict[str, Any]:
    if isinstance(payload, str):
        return {"message": payload.strip()[:_LONGEST_TEXT]}
    if not isinstance(payload, Mapping):
        return {}
    fields = cast("Mapping[str, Any]", payload)
    error: object = fields.get("error", fields)
    if isinstance(error, str):
        return {"message": error}
    if not isinstance(error, Mapping):
        return {}
    found = dict(cast("Mapping[str, Any]", error))
    if "message" not in found and "detail" in found:
        found["message"] = str(found.pop("detail"))[:_LONGEST_TEXT]
    return found
