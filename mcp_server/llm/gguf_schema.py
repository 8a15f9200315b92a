"""Fit a JSON schema to what llama.cpp's grammar can hold, and to what a small model can fill in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mcp_server.errors import InvalidInput
from mcp_server.llm.schema_reference import Schema, lookup

# A small model that is in a string or an array often never leaves it: bounds keep the JSON whole.
_LONGEST_STRING = 400
_LONGEST_ARRAY = 8
_MOST_NODES = 1_000
_DEEPEST = 12

_KEPT_WHEN_SIMPLE = ("type", "const", "enum", "required", "properties", "items", "anyOf")
_DROPPED = ("$schema", "$id", "$defs", "definitions", "title", "description", "default", "examples")


def fitted(schema: object) -> list[Any]:
    """Give schemas to try in turn: as asked but bounded, then its plain structure, then any object."""
    bounded = _Fitter(schema, simple=False).fit(schema, 0)
    simple = _Fitter(schema, simple=True).fit(schema, 0)
    return [bounded, simple, {"type": "object"}]


class _Fitter:
    def __init__(self, root: object, *, simple: bool) -> None:
        self._root = root
        self._simple = simple
        self._nodes = 0

    def fit(self, schema: object, depth: int) -> Any:
        """Inline references (recursive ones end in any object), and bound strings and arrays."""
        self._nodes += 1
        if depth > _DEEPEST or self._nodes > _MOST_NODES:
            return {"type": "object"}
        if not isinstance(schema, Mapping):
            return {"type": "string", "maxLength": _LONGEST_STRING} if schema is True else {}
        rules = self._dereferenced(cast("Schema", schema))
        fit = {key: value for key, value in rules.items() if key not in _DROPPED}
        if self._simple:
            fit = {key: value for key, value in fit.items() if key in _KEPT_WHEN_SIMPLE}
        self._fit_parts(fit, depth + 1)
        _bound(fit)
        return fit

    def _dereferenced(self, rules: Schema) -> dict[str, Any]:
        found = dict(rules)
        for _ in range(_DEEPEST):
            if "$ref" not in found:
                return found
            reference = str(found.pop("$ref"))
            try:
                target: object = lookup(self._root, reference)
            except InvalidInput:
                return found
            if isinstance(target, Mapping):
                found = {**cast("Schema", target), **found}
        return {"type": "object"}

    def _fit_parts(self, fit: dict[str, Any], depth: int) -> None:
        if isinstance(fit.get("properties"), Mapping):
            properties = cast("Schema", fit["properties"])
            fit["properties"] = {name: self.fit(each, depth) for name, each in properties.items()}
            fit["additionalProperties"] = False
        if isinstance(fit.get("items"), Mapping):
            fit["items"] = self.fit(fit["items"], depth)
        for union in ("anyOf", "oneOf", "allOf", "prefixItems"):
            if isinstance(fit.get(union), list):
                fit[union] = [self.fit(each, depth) for each in cast("list[Any]", fit[union])]


def _bound(fit: dict[str, Any]) -> None:
    kind = fit.get("type")
    kinds = cast("list[str]", kind) if isinstance(kind, list) else [kind]
    if "const" in fit or "enum" in fit:
        return
    # With a pattern or a format the grammar has no room for a length.
    if "string" in kinds and "pattern" not in fit and "format" not in fit:
        fit["maxLength"] = max(_least(fit, "maxLength", _LONGEST_STRING), fit.get("minLength", 0))
    if "array" in kinds and "prefixItems" not in fit:
        fit["maxItems"] = max(_least(fit, "maxItems", _LONGEST_ARRAY), fit.get("minItems", 0))


def _least(fit: dict[str, Any], key: str, most: int) -> int:
    value = fit.get(key)
    return min(value, most) if isinstance(value, int) else most
