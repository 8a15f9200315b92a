"""The chat request of each turn: what a loop adds to the caller's, and what holds for the first turn only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mcp_server.llm import ChatRequest


def wants_json(request: Mapping[str, Any]) -> bool:
    """Tell whether the answer to a chat request must be JSON."""
    wanted: object = request.get("response_format")
    if not isinstance(wanted, Mapping):
        return False
    return cast("Mapping[str, Any]", wanted).get("type") in {"json_object", "json_schema"}


def with_tools(request: ChatRequest, own: list[dict[str, Any]]) -> ChatRequest:
    """Give the body with the server's tools beside its own, as a stream that tells its usage."""
    options: dict[str, Any] = request.get("stream_options") or {}
    full = request | {"stream": True, "stream_options": options | {"include_usage": True}}
    tools: list[Any] = [*(request.get("tools") or ()), *own]
    return full | {"tools": tools} if tools else full


def unforced(choice: object) -> object:
    """Give the choice of the turns after the first: what was forced is now free."""
    if choice == "none":
        return choice
    if isinstance(choice, Mapping):
        named = cast("Mapping[str, Any]", choice)
        if named.get("type") == "allowed_tools":  # the mode stands inside or beside it
            inner: object = named.get("allowed_tools")
            if isinstance(inner, Mapping):
                return {**named, "allowed_tools": {**cast("dict[str, Any]", inner), "mode": "auto"}}
            return {**named, "mode": "auto"}
    return "auto"
