"""Make one small, deterministic instance of a JSON schema."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard, cast

from mcp_server.errors import InvalidInput
from mcp_server.llm.schema_reference import Schema, lookup, merge, schema_type

# A schema may ask for a billion elements: stop long before that.
_MOST_VALUES = 10_000
_CHARACTERS_A_VALUE = 1_000


class _EndlessError(Exception):
    """This branch of the schema requires itself, or is far too large."""


def make_instance(schema: object, text: str) -> Any:
    """Give the instance of `schema` that the scripted model answers with.

    Objects hold their required properties only. A value is the const, the default, the first of
    enum, or else by type: a string is `text` cut to maxLength (and repeated up to minLength), a
    number the least that the bounds allow from 0 or the minimum, a boolean false, an array minItems
    elements; of anyOf and oneOf the first branch that ends. `pattern`, `format`, `not` and
    `uniqueItems` are not looked at. `$ref` reads inside the schema only. Raises InvalidInput if a
    reference leads nowhere or the schema has no finite instance.
    """
    try:
        return _Maker(schema, text).make(schema)
    except (_EndlessError, RecursionError):
        raise InvalidInput(
            "the JSON schema has no small instance: it requires itself, or very many elements."
        ) from None
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
        raise InvalidInput(f"this is not a JSON schema: {error}.") from error


@dataclass(slots=True)
class _Maker:
    root: object
    text: str
    active: list[str] = field(default_factory=list[str])
    made: int = 0

    def make(self, schema: object) -> Any:
        self._spend(1)
        if not isinstance(schema, Mapping):
            return self._string({})  # `true` allows anything
        rules = cast("Schema", schema)
        if "$ref" in rules:
            reference = str(rules["$ref"])
            siblings = {key: value for key, value in rules.items() if key != "$ref"}
            with self._entered(reference):
                return self.make(_join(lookup(self.root, reference), siblings))
        if rules.get("allOf"):
            joined: Schema = {key: value for key, value in rules.items() if key != "allOf"}
            for part in rules["allOf"]:
                joined = _join(self._resolved(part), joined)
            return self.make(joined)
        return self._value(rules)

    def _value(self, rules: Schema) -> Any:
        if "const" in rules:
            return rules["const"]
        if "default" in rules:
            return rules["default"]
        if rules.get("enum"):
            return rules["enum"][0]
        for union in ("anyOf", "oneOf"):
            if rules.get(union):
                siblings = {key: value for key, value in rules.items() if key != union}
                return self._first(rules[union], siblings)
        return self._by_type(rules)

    def _by_type(self, rules: Schema) -> Any:
        match schema_type(rules):
            case "object":
                return self._object(rules)
            case "array":
                return self._array(rules)
            case "integer" | "number" as kind:
                return _number(rules, whole=kind == "integer")
            case "boolean":
                return False
            case "null":
                return None
            case _:
                return self._string(rules)

    def _object(self, rules: Schema) -> dict[str, Any]:
        properties: Schema = rules.get("properties") or {}
        others = rules.get("additionalProperties", True)
        return {
            name: self.make(properties.get(name, others)) for name in rules.get("required") or ()
        }

    def _array(self, rules: Schema) -> list[Any]:
        ahead: list[Any] = list(rules.get("prefixItems") or ())
        count = int(rules.get("minItems", 0))
        rest = rules.get("items", True)
        return [self.make(ahead[i] if i < len(ahead) else rest) for i in range(count)]

    def _string(self, rules: Schema) -> str:
        least = int(rules.get("minLength", 0))
        self._spend(least // _CHARACTERS_A_VALUE)
        text = self.text
        if len(text) < least:
            unit = text or "x"
            text = (unit * (least // len(unit) + 1))[:least]
        text = text[: int(rules["maxLength"])] if "maxLength" in rules else text
        self._spend(len(text) // _CHARACTERS_A_VALUE)
        return text

    def _spend(self, values: int) -> None:
        self.made += values
        if self.made > _MOST_VALUES:
            raise _EndlessError

    def _first(self, branches: list[Any], siblings: Schema) -> Any:
        for branch in branches:
            try:
                return self.make(_join(branch, siblings))
            except _EndlessError:
                continue
        raise _EndlessError

    def _resolved(self, schema: object) -> object:
        for _ in range(32):
            if not isinstance(schema, Mapping) or "$ref" not in schema:
                return cast("object", schema)
            schema = lookup(self.root, str(cast("Schema", schema)["$ref"]))
        raise _EndlessError

    @contextmanager
    def _entered(self, reference: str) -> Generator[None]:
        if reference in self.active:
            raise _EndlessError
        self.active.append(reference)
        try:
            yield
        finally:
            self.active.pop()


def _join(schema: object, siblings: Schema) -> Schema:
    return merge(cast("Schema", schema) if isinstance(schema, Mapping) else {}, siblings)


def _number(rules: Schema, *, whole: bool) -> float:
    low, high = _bounds(rules, whole=whole)
    value = low if low > -math.inf else min(0, high)
    step = rules.get("multipleOf")
    if step:
        value = (math.ceil if value >= low and value != high else math.floor)(value / step) * step
    if not whole:
        return value
    return math.floor(value) if value == high else math.ceil(value)


def _bounds(rules: Schema, *, whole: bool) -> tuple[float, float]:
    low: float = rules.get("minimum", -math.inf)
    high: float = rules.get("maximum", math.inf)
    above: object = rules.get("exclusiveMinimum")
    below: object = rules.get("exclusiveMaximum")
    if _is_number(above):
        near = min(high, below) if _is_number(below) else high
        low = max(low, math.floor(above) + 1 if whole else above + min(1, (near - above) / 2))
    if _is_number(below):
        high = min(high, math.ceil(below) - 1 if whole else below - min(1, (below - low) / 2))
    return low, high


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
