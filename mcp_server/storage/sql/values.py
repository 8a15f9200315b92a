"""Values between JSON and PostgreSQL's text form, in which all tenant SQL travels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from mcp_server.errors import InvalidInput

_INTEGERS = frozenset({"int2", "int4", "int8", "oid"})
_FLOATS = frozenset({"float4", "float8"})
_JSON = frozenset({"json", "jsonb"})

Decoder = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class PgType:
    """A type of the server: `name` as SQL writes it, `base` as pg_type does, `element` of an array."""

    name: str
    base: str
    element: PgType | None = None
    delimiter: str = ","


TEXT = PgType("text", "text")


def decoder(type_: PgType) -> Decoder:
    """Return what turns PostgreSQL's text of this type into JSON.

    Integers are numbers; numeric is a string, since JSON readers round it; floats are numbers, or
    strings if NaN or infinite; timestamps are ISO 8601; json stays JSON, but for numbers that no float
    holds, which are strings; arrays are lists; all else
    (bytea as `\\x…`, interval as ISO 8601, uuid, ranges, composites) is PostgreSQL's text.
    """
    if type_.element is not None:
        element, delimiter = decoder(type_.element), type_.delimiter
        return lambda text: _array(text, element, delimiter)
    if type_.base == "bool":
        return lambda text: text == "t"
    if type_.base in _INTEGERS:
        return int
    if type_.base in _FLOATS:
        return _float
    if type_.base in _JSON:
        return _json
    if type_.base in {"timestamp", "timestamptz"}:
        return _timestamp
    return str


def _float(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _decimal(text: str) -> float | str:
    """Return a number of a JSON value, as text if a float would not hold all of it."""
    value = _float(text)
    # Any 15 digits fit a float: https://en.wikipedia.org/wiki/Double-precision_floating-point_format
    if len(text) <= 15 or isinstance(value, str) or Decimal(text) == Decimal(repr(value)):
        return value
    return text


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_float=_decimal)
    except (ValueError, RecursionError):
        # Digits beyond Python's limit, or deeper than its stack: the text says it all.
        return text


def _timestamp(text: str) -> str:
    """`2026-01-02 03:04:05+00` to `2026-01-02T03:04:05+00:00`; infinity and BC stay as they are."""
    if text.endswith(("BC", "infinity")):
        return text
    text = text.replace(" ", "T", 1)
    return f"{text}:00" if text[-3] in "+-" else text


def _array(text: str, element: Decoder, delimiter: str) -> list[Any]:
    """Parse an array's text form; a stack instead of recursion."""
    if text.startswith("["):  # explicit bounds: [2:3]={…}
        text = text.partition("=")[2]
    root: list[Any] = []
    stack = [root]
    at = 0
    while at < len(text):
        char = text[at]
        if char == "{":
            inner: list[Any] = []
            stack[-1].append(inner)
            stack.append(inner)
            at += 1
        elif char == "}":
            stack.pop()
            at += 1
        elif char == delimiter:
            at += 1
        elif char == '"':
            raw, at = _quoted(text, at + 1)
            stack[-1].append(element(raw))
        else:
            end = at
            while text[end] not in (delimiter, "}"):
                end += 1
            raw, at = text[at:end], end
            stack[-1].append(None if raw == "NULL" else element(raw))
    return root[0]


def _quoted(text: str, at: int) -> tuple[str, int]:
    pieces: list[str] = []
    while text[at] != '"':
        at += text[at] == "\\"
        pieces.append(text[at])
        at += 1
    return "".join(pieces), at + 1


def encode(value: Any, type_: PgType, param: str) -> str | None:
    """Return a JSON value as PostgreSQL's text for a parameter of this type.

    A string is taken as PostgreSQL's text form of any type, null as NULL.

    Raises:
        InvalidInput: a list or an object where the type is neither an array nor json.
    """
    if value is None or isinstance(value, str):
        return value
    if type_.base in _JSON:
        return json.dumps(value, ensure_ascii=True)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        whole = type_.base in _INTEGERS and value.is_integer()
        return str(int(value)) if whole else repr(value)
    if isinstance(value, list) and type_.element is not None:
        items = [_item(item, type_, param) for item in cast("list[Any]", value)]
        return "{" + type_.delimiter.join(items) + "}"
    raise InvalidInput(
        f"{param}: a JSON {'list' if isinstance(value, list) else 'object'} does not fit the type "
        f"{type_.name}; pass a string in PostgreSQL's text form",
        param="params",
    )


def _item(value: Any, array: PgType, param: str) -> str:
    if isinstance(value, list) and array.element is not None and array.element.base not in _JSON:
        return encode(value, array, param) or "NULL"
    text = encode(value, array.element or TEXT, param)
    if text is None:
        return "NULL"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
