"""Tools that send requests to the client during the call: handshake-era sessions only."""

from __future__ import annotations

import json
from typing import Any

from mcp.server.mcpserver import Context
from mcp_types import ElicitResult, SamplingMessage, TextContent

from mcp_server.plugins import tool

_STATES = ["active", "inactive", "pending"]

_CONTACT = {
    "username": {"type": "string", "description": "User's response"},
    "email": {"type": "string", "description": "User's email address"},
}

# SEP-1034: a default for each primitive type.
_DEFAULTS = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": _STATES, "default": "active"},
    "verified": {"type": "boolean", "default": True},
}

# SEP-1330: the five ways to offer a choice.
_CHOICES = {
    "untitledSingle": {"type": "string", "enum": _STATES},
    "titledSingle": {
        "type": "string",
        "oneOf": [{"const": "low", "title": "Low"}, {"const": "high", "title": "High"}],
    },
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["read", "write"]}},
    "titledMulti": {
        "type": "array",
        "items": {
            "anyOf": [{"const": "bug", "title": "Bug"}, {"const": "docs", "title": "Documents"}]
        },
    },
    "legacyEnum": {"type": "string", "enum": ["s", "l"], "enumNames": ["Small", "Large"]},
}


async def _elicit(
    context: Context, message: str, properties: dict[str, Any], required: list[str] | None = None
) -> str:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    # Without the related id the request would go to the GET stream and be lost if none is open.
    answer: ElicitResult = await context.session.elicit_form(
        message, schema, related_request_id=context.request_id
    )
    return f"action={answer.action}, content={json.dumps(answer.content)}"


@tool()
async def test_sampling(prompt: str, context: Context) -> str:
    """Ask the client's model."""
    answer = await context.session.create_message(  # pyright: ignore[reportDeprecated]
        [SamplingMessage(role="user", content=TextContent(text=prompt))],
        max_tokens=100,
        related_request_id=context.request_id,
    )
    text = answer.content.text if isinstance(answer.content, TextContent) else answer.content.type
    return f"LLM response: {text}"


@tool()
async def test_elicitation(message: str, context: Context) -> str:
    """Ask the client's user for a name and an address."""
    answer = await _elicit(context, message, _CONTACT, required=list(_CONTACT))
    return f"User response: {answer}"


@tool()
async def test_elicitation_sep1034_defaults(context: Context) -> str:
    """Ask the client's user with a default for each primitive type."""
    answer = await _elicit(context, "Please check these defaults", _DEFAULTS)
    return f"Elicitation completed: {answer}"


@tool()
async def test_elicitation_sep1330_enums(context: Context) -> str:
    """Ask the client's user to choose, in each of the five forms."""
    answer = await _elicit(context, "Please choose", _CHOICES)
    return f"Elicitation completed: {answer}"
