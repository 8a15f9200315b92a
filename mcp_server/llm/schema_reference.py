"""Read JSON schemas as data: follow references, join branches, find the type that is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast
from urllib.parse import unquote

from mcp_server.errors import InvalidInput

Schema: TypeAlias = Mapping[str, Any]

# What a schema without `type` speaks of, by the first keyword found (JSON Schema validation, section 6).
_HINTS = {
    "object": ("properties", "required", "additionalProperties", "patternProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def schema_type(schema: Schema) -> str:
    """Give the (first) type of `schema`; without one, the type that its keywords are about, else string."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    if isinstance(kind, Sequence) and kind:
        return str(cast("Sequence[Any]", kind)[0])
    for name, keywords in _HINTS.items():
        if any(keyword in schema for keyword in keywords):
            return name
    return "string"


def lookup(root: object, reference: str) -> Any:
    """Follow a `$ref` of the form `#` or `#/a/b` (RFC 6901). Raises InvalidInput if it leads nowhere."""
    if not reference.startswith("#"):
        raise InvalidInput(
            f"the JSON schema refers to {reference!r}: only references inside the schema ('#/...') are read."
        )
    found: object = root
    for step in unquote(reference[1:]).split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and key in found:
            found = cast("Schema", found)[key]
        elif (
            isinstance(found, list) and key.isdecimal() and int(key) < len(cast("list[Any]", found))
        ):
            found = cast("list[Any]", found)[int(key)]
        else:
            raise InvalidInput(f"the JSON schema refers to {reference!r}, which it does not hold.")
    return found


def merge(first: Schema, second: Schema) -> dict[str, Any]:
    """Join two schemas that hold at the same time: properties and required add up, else `second` wins."""
    joined = {**first, **second}
    if "properties" in first and "properties" in second:
        joined["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        joined["required"] = list(dict.fromkeys([*first["required"], *second["required"]]))
    return joined
