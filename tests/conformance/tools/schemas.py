"""Tools whose input schemas must reach the client unchanged."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mcp_server.plugins import tool

# SEP-1613 and SEP-2106: every keyword of JSON Schema 2020-12 below has to survive tools/list.
_CONTACT: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@tool(input_schema=_CONTACT)
async def json_schema_2020_12_tool() -> str:
    """Publish an input schema with composition, conditions and references."""
    return "The schema is what matters."


@tool()
async def test_x_mcp_header(
    region: Annotated[
        str,
        Field(
            description="Also sent in the header Mcp-Param-Region",
            json_schema_extra={"x-mcp-header": "Region"},
        ),
    ],
) -> str:
    """Mirror one argument into a header of the request (SEP-2243)."""
    return f"region={region}"
