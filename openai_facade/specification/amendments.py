"""Where OpenAI's document is narrower or wider than its own API, and where this server says more."""

from __future__ import annotations

import copy
from typing import Any

_NULL = {"type": "null"}
_TEXTS = {"type": "array", "items": {"type": "string"}}


def amended(schemas: dict[str, Any]) -> dict[str, Any]:
    """Mend schemas in place, and give them back."""
    _chat_tools(schemas)
    _seeds(schemas)
    _stored_messages(schemas)
    _expiry_of_stores(schemas)
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


def _stored_messages(schemas: dict[str, Any]) -> None:
    """Show the messages that a stored chat was asked, too, as in the document's own example."""
    listed = schemas["ChatCompletionMessageList"]["properties"]["data"]
    roles = ["developer", "system", "user", "assistant", "tool", "function"]
    message = copy.deepcopy(schemas["ChatCompletionResponseMessage"])
    message["properties"]["role"] = {"type": "string", "enum": roles}
    schemas["StoredChatMessage"] = message
    own = listed["items"]["allOf"][1]
    listed["items"]["allOf"] = [{"$ref": "#/components/schemas/StoredChatMessage"}, own]


def _expiry_of_stores(schemas: dict[str, Any]) -> None:
    """Let a store without an expiry say so."""
    fields = schemas["VectorStoreObject"]["properties"]
    fields["expires_after"] = {"anyOf": [fields["expires_after"], _NULL]}
