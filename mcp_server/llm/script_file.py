"""Read and check the YAML file of a scripted model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from mcp_server.errors import ConfigurationError

_KINDS = ("text", "tool_calls", "error")


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call: `arguments` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An HTTP status from 400 to 599 and its message."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer: exactly one of text, tool_calls and error is set."""

    text: str | None = None
    tool_calls: tuple[Call, ...] = ()
    error: Failure | None = None
    delay_seconds: float = 0.0


def load_turns(content: str, source: str) -> tuple[Turn, ...]:
    """Read the turns of a script. Raises ConfigurationError that names `source` and the place."""
    import yaml

    try:
        document: object = yaml.safe_load(content)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{source}: this is not YAML: {reason}") from error
    root = _fields(document, source, {"turns"})
    turns = root.get("turns")
    if not isinstance(turns, list) or not turns:
        raise ConfigurationError(f"{source}: 'turns' must be a list of at least one turn.")
    listed = cast("list[object]", turns)
    return tuple(_turn(turn, f"{source}: turns[{i}]") for i, turn in enumerate(listed))


def _turn(value: object, place: str) -> Turn:
    fields = _fields(value, place, {*_KINDS, "delay_ms"})
    kinds = [kind for kind in _KINDS if kind in fields]
    if len(kinds) != 1:
        raise ConfigurationError(f"{place} must hold exactly one of {', '.join(_KINDS)}.")
    delay = _delay(fields.get("delay_ms", 0), place)
    match kinds[0]:
        case "text":
            return Turn(text=_text(fields["text"], f"{place}.text"), delay_seconds=delay)
        case "tool_calls":
            return Turn(tool_calls=_calls(fields["tool_calls"], place), delay_seconds=delay)
        case _:
            return Turn(error=_failure(fields["error"], f"{place}.error"), delay_seconds=delay)


def _calls(value: object, place: str) -> tuple[Call, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigurationError(f"{place}.tool_calls must be a list of at least one call.")
    calls = cast("list[object]", value)
    return tuple(_call(call, f"{place}.tool_calls[{i}]") for i, call in enumerate(calls))


def _call(value: object, place: str) -> Call:
    fields = _fields(value, place, {"name", "arguments"})
    arguments = fields.get("arguments", {})
    if isinstance(arguments, str):  # written as text on purpose: a script may hold broken JSON
        return Call(_text(fields.get("name"), f"{place}.name"), arguments)
    if not isinstance(arguments, dict):
        raise ConfigurationError(f"{place}.arguments must be a mapping.")
    try:
        text = json.dumps(arguments, ensure_ascii=False)
    except TypeError as error:
        raise ConfigurationError(
            f"{place}.arguments has no JSON form ({error}): quote dates and times."
        ) from error
    return Call(_text(fields.get("name"), f"{place}.name"), text)


def _failure(value: object, place: str) -> Failure:
    fields = _fields(value, place, {"status", "message"})
    status = fields.get("status")
    if not isinstance(status, int) or not 400 <= status <= 599:
        raise ConfigurationError(f"{place}.status must be a whole number from 400 to 599.")
    return Failure(status, _text(fields.get("message"), f"{place}.message"))


def _delay(value: object, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ConfigurationError(f"{place}.delay_ms must be a number of milliseconds, 0 or more.")
    return value / 1000


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{place} must be a string: put it in quotes.")
    return value


def _fields(value: object, place: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{place} must be a mapping of {', '.join(sorted(known))}.")
    fields = cast("dict[object, Any]", value)
    unknown = sorted(str(key) for key in fields if key not in known)
    if unknown:
        raise ConfigurationError(
            f"{place} holds the unknown key {unknown[0]!r}: it may hold {', '.join(sorted(known))}."
        )
    return cast("Mapping[str, Any]", fields)
