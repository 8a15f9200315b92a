"""How a model is asked for an answer that fits a JSON schema: strictly where OpenAI's rules for that hold."""

from __future__ import annotations

from typing import Any, cast


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    """Give the `response_format` of a chat request; OpenAI refuses `strict` for what its rules leave out."""
    named = {"name": "output", "schema": schema, "strict": _is_strict(schema)}
    return {"type": "json_schema", "json_schema": named}


def _is_strict(schema: dict[str, Any]) -> bool:
    """Tell whether the root is an object, and every object requires all it has and allows nothing else."""
    return schema.get("type") == "object" and _holds(schema)


def _holds(part: object) -> bool:
    if isinstance(part, list):
        return all(map(_holds, cast("list[object]", part)))
    if not isinstance(part, dict):
        return True
    each = cast("dict[str, Any]", part)
    if each.get("type") == "object":
        names = set(each.get("properties") or ())
        if (
            each.get("additionalProperties") is not False
            or set(each.get("required") or ()) != names
        ):
            return False
    return all(map(_holds, each.values()))
