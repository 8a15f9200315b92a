"""The Response object: the one place that says which fields it has.

It is the union of OpenAI's document 2.3.0 and of the Open Responses specification (2026-04-24), which
requires more fields, and allows fewer nulls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from uuid import uuid4

Response = dict[str, Any]
Item = dict[str, Any]

ENDED = frozenset({"completed", "failed", "incomplete", "cancelled"})

_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "mcp_list_tools": "mcpl",
    "mcp_call": "mcp",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "file_search_call": "fs",
    "compaction": "cmp",
}
# What a client entrusts to this server for another one is not shown again.
SECRET = frozenset({"authorization", "headers"})


def response_id() -> str:
    """Give a new id of a response; nobody can guess it."""
    return f"resp_{uuid4().hex}"


def item_id(kind: str) -> str:
    """Give a new id of an item of this type."""
    return f"{_PREFIXES.get(kind, 'item')}_{uuid4().hex}"


def new_response(body: Mapping[str, Any], *, response: str, created_at: int) -> Response:
    """Give the object of a response that has just begun; `created_at` is in Unix seconds."""
    given = {name: value for name, value in body.items() if value is not None}
    whole: Response = {
        "id": response,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": body["model"],
        "output": [],
        "usage": None,
        **_asked(given),
    }
    conversation = given.get("conversation")
    if conversation is not None:
        name = conversation if isinstance(conversation, str) else conversation["id"]
        whole["conversation"] = {"id": name}
    if "user" in given:
        whole["user"] = given["user"]
    return whole


def _asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the object repeats of its request, with what holds where nothing was asked."""
    reasoning = {"effort": None, "summary": None, **given.get("reasoning", {})}
    return {
        "background": given.get("background", False),
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "max_tool_calls": given.get("max_tool_calls"),
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "previous_response_id": given.get("previous_response_id"),
        "prompt_cache_key": given.get("prompt_cache_key"),
        "reasoning": reasoning,
        "safety_identifier": given.get("safety_identifier"),
        "service_tier": _service_tier(given.get("service_tier")),
        "store": given.get("store", True),
        "temperature": given.get("temperature", 1.0),
        "text": {"format": {"type": "text"}, "verbosity": "medium"} | _known(given.get("text")),
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": [_tool(tool) for tool in given.get("tools", ())],
        "top_logprobs": given.get("top_logprobs", 0),
        "top_p": given.get("top_p", 1.0),
        "truncation": given.get("truncation", "disabled"),
        "metadata": given.get("metadata", {}),
        "presence_penalty": given.get("presence_penalty", 0.0),
        "frequency_penalty": given.get("frequency_penalty", 0.0),
    }


def response_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Give the usage of a response from that of chat completions."""
    prompt: Mapping[str, Any] = usage.get("prompt_tokens_details") or {}
    completion: Mapping[str, Any] = usage.get("completion_tokens_details") or {}
    read, written = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": int(prompt.get("cached_tokens") or 0),
            "cache_write_tokens": int(prompt.get("cache_write_tokens") or 0),
        },
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": int(completion.get("reasoning_tokens") or 0)},
        "total_tokens": int(usage.get("total_tokens") or read + written),
    }


def _service_tier(asked: object) -> str:
    """Tell the tier that served: there is only the one."""
    return "default" if asked in {None, "auto"} else str(asked)


def _known(given: object) -> dict[str, Any]:
    fields = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    return {name: value for name, value in fields.items() if value is not None}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool["type"] == "function":
        return {
            "type": "function",
            "name": tool["name"],
            "description": tool.get("description"),
            "parameters": tool.get("parameters"),
            "strict": bool(tool.get("strict")),
        }
    return {name: value for name, value in tool.items() if name not in SECRET and value is not None}
