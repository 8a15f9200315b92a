"""Filters as OpenAI writes them: parsed into a typed tree, compiled to SQL with bound values only.

A comparison is `{"type": "eq", "key": "lang", "value": "en"}`; `{"type": "and", "filters": [...]}`
joins several. Only values of the same kind compare: text with text (by code point), number with
number, boolean with boolean. A key that is missing, or null, or of another kind matches `ne` and
`nin` and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias, TypeGuard, cast, get_args

from sqlalchemy import (
    Boolean,
    ColumnElement,
    DateTime,
    Numeric,
    String,
    and_,
    collate,
    false,
    func,
    literal,
    or_,
    true,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import Integer

from mcp_server.errors import InvalidInput

Comparator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
COMPARATORS: tuple[Comparator, ...] = get_args(Comparator)
Connective = Literal["and", "or"]
CONNECTIVES: tuple[Connective, ...] = get_args(Connective)

Scalar: TypeAlias = str | bool | int | float

MAX_DEPTH = 8
MAX_COMPARISONS = 100
MAX_VALUES = 1000
MAX_KEY_CHARACTERS = 256
MAX_TEXT_CHARACTERS = 8192
# PostgreSQL's numeric ends at 131,072 digits; nothing that a filter asks for comes near.
MAX_DIGITS = 400


@dataclass(frozen=True, slots=True)
class Comparison:
    """One key against one value; `value` is a tuple for `in` and `nin`, else a scalar."""

    type: Comparator
    key: str
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Compound:
    """All (`and`) or any (`or`) of at least one filter."""

    type: Connective
    filters: tuple[Filter, ...]


Filter: TypeAlias = Comparison | Compound
ColumnOf: TypeAlias = Callable[[str], ColumnElement[Any]]


def parse(raw: object) -> Filter:
    """Return the tree of a filter as it came in from JSON.

    Raises:
        InvalidInput: it is not in the grammar, nested deeper than 8, or has more than 100
            comparisons or 1,000 values; the message says where.
    """
    return _Parser().filter(raw, "filter", 1)


class _Parser:
    def __init__(self) -> None:
        self._comparisons = 0
        self._values = 0

    def filter(self, raw: object, at: str, depth: int) -> Filter:
        if not _is_object(raw):
            raise _refusal(at, "it is not an object; write {type, key, value} or {type, filters}")
        if depth > MAX_DEPTH:
            raise _refusal(at, f"filters are nested deeper than {MAX_DEPTH}; flatten them")
        kind = raw.get("type")
        for connective in CONNECTIVES:
            if kind == connective:
                return self._compound(connective, raw, at, depth)
        for comparator in COMPARATORS:
            if kind == comparator:
                return self._comparison(comparator, raw, at)
        known = ", ".join((*COMPARATORS, *CONNECTIVES))
        raise _refusal(f"{at}.type", f"{kind!r:.80} is not one of {known}")

    def _compound(
        self, connective: Connective, raw: Mapping[str, object], at: str, depth: int
    ) -> Compound:
        _only(raw, {"type", "filters"}, at)
        items = raw.get("filters")
        if not _is_list(items) or not items:
            raise _refusal(f"{at}.filters", "give a list of at least one filter")
        return Compound(
            connective,
            tuple(
                self.filter(item, f"{at}.filters[{number}]", depth + 1)
                for number, item in enumerate(items)
            ),
        )

    def _comparison(self, comparator: Comparator, raw: Mapping[str, object], at: str) -> Comparison:
        _only(raw, {"type", "key", "value"}, at)
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise _refusal(at, f"there are more than {MAX_COMPARISONS} comparisons; use in or nin")
        key = raw.get("key")
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARACTERS:
            raise _refusal(f"{at}.key", f"give a text of 1-{MAX_KEY_CHARACTERS} characters")
        _storable(key, f"{at}.key")
        return Comparison(comparator, key, self._value(comparator, raw, f"{at}.value"))

    def _value(
        self, comparator: Comparator, raw: Mapping[str, object], at: str
    ) -> Scalar | tuple[Scalar, ...]:
        value = raw.get("value")
        if comparator in {"in", "nin"}:
            if not _is_list(value):
                raise _refusal(at, f"{comparator} needs a list of texts, numbers or booleans")
            self._values += len(value)
            if self._values > MAX_VALUES:
                raise _refusal(at, f"there are more than {MAX_VALUES} values; ask in several calls")
            return tuple(_scalar(item, f"{at}[{n}]") for n, item in enumerate(value))
        scalar = _scalar(value, at)
        if isinstance(scalar, bool) and comparator not in {"eq", "ne"}:
            raise _refusal(at, f"{comparator} orders texts and numbers; use eq for a boolean")
        return scalar


def _is_object(raw: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(raw, Mapping)


def _is_list(raw: object) -> TypeGuard[list[object]]:
    return isinstance(raw, list)


def _only(raw: Mapping[str, object], known: set[str], at: str) -> None:
    for name in raw:
        if name not in known:
            raise _refusal(f"{at}.{name!s:.40}", f"unknown; known are {', '.join(sorted(known))}")


def _scalar(value: object, at: str) -> Scalar:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > MAX_TEXT_CHARACTERS:
            raise _refusal(at, f"a text may have at most {MAX_TEXT_CHARACTERS} characters")
        _storable(value, at)
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and abs(value) < 10**MAX_DIGITS:
        return value
    raise _refusal(at, "give a text, a number or a boolean")


def _storable(text: str, at: str) -> None:
    """Refuse what no stored text can hold: it would be an error of the database, not of the caller."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise _refusal(at, "it holds U+0000 or half a surrogate pair; leave that out")


def _refusal(at: str, why: str) -> InvalidInput:
    return InvalidInput(f"{at}: {why}", param="filter")


def compile(node: Filter, column: ColumnOf) -> ColumnElement[bool]:  # noqa: A001 - read as filters.compile
    """Return the condition of a filter.

    `column(key)` gives the expression for a key, a value inside JSONB or a plain column of text,
    number, boolean or time; it raises InvalidInput for a key that it does not know. Every value of
    the caller becomes a bound parameter.
    """
    if isinstance(node, Compound):
        parts = [compile(item, column) for item in node.filters]
        return and_(*parts) if node.type == "and" else or_(*parts)
    expression = column(node.key)
    if isinstance(expression.type, JSONB):
        return _in_json(node, expression)
    return _in_column(node, expression)


def required(node: Filter) -> dict[str, Scalar]:
    """Return members that every object that fits must have; not all of them, and none if none is sure."""
    if isinstance(node, Comparison):
        sure = node.type == "eq" and not isinstance(node.value, tuple)
        return {node.key: cast("Scalar", node.value)} if sure else {}
    held: dict[str, Scalar] = {}
    for item in node.filters if node.type == "and" else ():
        held |= required(item)
    return held


def _in_json(node: Comparison, found: ColumnElement[Any]) -> ColumnElement[bool]:
    value = node.value
    if isinstance(value, tuple):
        scalar = func.jsonb_typeof(found).in_(("string", "number", "boolean"))
        # A list holds a scalar; without the guard it would hold a stored list of its members too.
        held = and_(scalar, literal(list(value), JSONB).contains(found))
        return held if node.type == "in" else func.coalesce(held, false()).is_(false())
    if node.type == "eq":
        return found == literal(value, JSONB)
    if node.type == "ne":
        return found.is_distinct_from(literal(value, JSONB))
    if isinstance(value, str):
        # JSONB orders texts by the database's collation, which differs from server to server.
        text = cast("ColumnElement[Any]", cast("Any", found).astext)
        return and_(
            func.jsonb_typeof(found) == "string",
            _ordered(node.type, collate(text, "C"), literal(value)),
        )
    return and_(
        func.jsonb_typeof(found) == "number", _ordered(node.type, found, literal(value, JSONB))
    )


def _in_column(node: Comparison, found: ColumnElement[Any]) -> ColumnElement[bool]:
    values = node.value if isinstance(node.value, tuple) else (node.value,)
    expression, comparable = _comparable(found, values, node)
    if node.type in {"eq", "in"}:
        return expression.in_(comparable) if comparable else false()
    if node.type in {"ne", "nin"}:
        other = expression.not_in(comparable) if comparable else true()
        return or_(expression.is_(None), other)
    return _ordered(node.type, expression, comparable[0]) if comparable else false()


def _comparable(
    found: ColumnElement[Any], values: tuple[Scalar, ...], node: Comparison
) -> tuple[ColumnElement[Any], list[ColumnElement[Any]]]:
    """Return the column and those values that are of its kind, both ready to compare."""
    match found.type:
        case String():
            texts = [literal(item) for item in values if isinstance(item, str)]
            return collate(found, "C"), list[ColumnElement[Any]](texts)
        case Boolean():
            return found, [literal(item) for item in values if isinstance(item, bool)]
        case Integer() | Numeric():
            # As numeric, so that a number beyond the column's range compares instead of failing.
            numbers = [
                literal(Decimal(str(item)), Numeric)
                for item in values
                if isinstance(item, int | float) and not isinstance(item, bool)
            ]
            return sql_cast(found, Numeric), list[ColumnElement[Any]](numbers)
        case DateTime():
            return found, [literal(_moment(item, node.key), DateTime(True)) for item in values]
        case _:
            raise InvalidInput(f"filter: {node.key!r} cannot be filtered on", param="filter")


def _moment(value: Scalar, key: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidInput(
            f"filter: {key!r} is a time; compare it with ISO 8601 and its offset, "
            "for example 2026-01-31T12:00:00Z",
            param="filter",
        )
    return moment


def _ordered(
    comparator: Comparator, left: ColumnElement[Any], right: ColumnElement[Any]
) -> ColumnElement[bool]:
    match comparator:
        case "gt":
            return left > right
        case "gte":
            return left >= right
        case "lt":
            return left < right
        case _:
            return left <= right
