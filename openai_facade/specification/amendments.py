"""Where OpenAI's document is narrower or wider than its own API, and where this server says more."""

from __future__ import annotations

from typing import Any

_NULL = {"type": "null"}
_TEXTS = {"type": "array", "items": {"type": "string"}}


def amended(schemas: dict[str, Any]) -> dict[str, Any]:
    """Mend schemas in place, and give them back."""
    _chat_tools(schemas)
    _seeds(schemas)
    return schemas


def _chat_tools(schemas: dict[str, Any]) -> None:
    """Let a chat opt into this server's tools, in the form that responses have for it."""
    tools = schemas["CreateChatCompletionRequest"]["allOf"][1]["properties"]["tools"]
    kinds = tools["items"]["oneOf"]
    kinds.append(
        {
            "type": "object",
            "required": ["type", "server_label"],
            "properties": {
                "type": {"const": "mcp"},
                "server_label": {"const": "isthmus"},
                "allowed_tools": {
                    "anyOf": [{"$ref": "#/components/schemas/MCPToolFilter"}, _TEXTS]
                },
                "require_approval": {"const": "never"},
            },
        }
    )


def _seeds(schemas: dict[str, Any]) -> None:
    """Bound seeds to 64 bits: the document's bounds were rounded, and lie just outside."""
    for owner in (
        schemas["CreateChatCompletionRequest"]["allOf"][1],
        schemas["CreateCompletionRequest"],
    ):
        seed = owner["properties"]["seed"]
        bounded = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
        owner["properties"]["seed"] = {"anyOf": [bounded, _NULL]} if "anyOf" in seed else bounded
