"""What can be sent as JSON over every transport, and so may come in."""

from __future__ import annotations

from typing import Any, cast

import orjson

from mcp_server.errors import InvalidInput

# Parsers give up at some depth: pydantic's, in many clients, at 200 for the whole message.
MOST_DEPTH = 128


def check_arguments(arguments: dict[str, Any]) -> None:
    """Refuse what could be stored but never sent back.

    Raises:
        InvalidInput: names the argument.
    """
    for name, value in arguments.items():
        problem = obstacle(name) or obstacle(value, MOST_DEPTH)
        if problem is not None:
            shown = name.encode("ascii", "backslashreplace").decode()
            raise InvalidInput(f"{shown}: {problem}", param=shown)


def obstacle(value: object, most_depth: int | None = None) -> str | None:
    """Say why a value cannot be sent as JSON in UTF-8; None if it can."""
    try:
        encoded = orjson.dumps(value)
    except TypeError:
        return _search(value, most_depth or MOST_DEPTH)
    # There cannot be more levels than opening brackets: counting them is cheap, walking is not.
    if most_depth is None or encoded.count(b"[") + encoded.count(b"{") <= most_depth:
        return None
    return _search(value, most_depth)


def _search(value: object, most_depth: int) -> str | None:
    """Walk through a value; numbers beyond 64 bits are all right, though not for the fast encoder."""
    pending = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, str):
            if not item.isascii() and any("\ud800" <= char <= "\udfff" for char in item):
                return "it holds half a surrogate pair, which UTF-8 cannot encode; leave it out"
        elif isinstance(item, dict | list):
            if depth > most_depth:
                return f"it is nested deeper than {most_depth} levels; flatten it"
            inner = cast("dict[Any, Any] | list[Any]", item)
            parts = [*inner.keys(), *inner.values()] if isinstance(inner, dict) else inner
            pending.extend((part, depth + 1) for part in parts)
        elif not (item is None or isinstance(item, bool | int | float)):
            return f"it holds a {type(item).__name__}, which JSON has not"
    return None
