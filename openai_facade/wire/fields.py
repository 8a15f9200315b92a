"""Checks of single fields: each takes the parameter's name and its value, and raises or returns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias, cast

from openai_facade.wire.faults import invalid, missing, wrong_type

Check: TypeAlias = Callable[[str, Any], None]


def required(body: Mapping[str, Any], name: str, place: str | None = None) -> Any:
    """Give `body[name]`; null counts as missing. `place` is the path to show instead of `name`."""
    value = body.get(name)
    if value is None:
        raise missing(place or name)
    return value


def as_object(param: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type(param, "an object", value)
    return cast("dict[str, Any]", value)


def as_array(param: str, value: object, of: str = "objects") -> list[Any]:
    if not isinstance(value, list):
        raise wrong_type(param, f"an array of {of}", value)
    return cast("list[Any]", value)


def as_string(param: str, value: object) -> str:
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)
    return value


def required_string(fields: Mapping[str, Any], name: str, place: str) -> str:
    """Give the text that the object at `place` must hold under `name`."""
    here = f"{place}.{name}"
    return as_string(here, required(fields, name, here))


def boolean(param: str, value: object) -> None:
    if not isinstance(value, bool):
        raise wrong_type(param, "a boolean", value)


def string(param: str, value: object) -> None:
    as_string(param, value)


def mapping(param: str, value: object) -> None:
    as_object(param, value)


def one_of(choices: Collection[str]) -> Check:
    """A string out of a fixed list."""

    def check(param: str, value: object) -> None:
        if as_string(param, value) not in choices:
            allowed = ", ".join(repr(choice) for choice in choices)
            raise invalid(param, f"{value!r}. Supported values are: {allowed}.")

    return check


def integer(minimum: int | None = None, maximum: int | None = None) -> Check:
    """A whole number within bounds, both inclusive."""

    def check(param: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(param, "an integer", value)
        _bounded(param, value, minimum, maximum)

    return check


def number(minimum: float | None = None, maximum: float | None = None) -> Check:
    """Any number within bounds, both inclusive."""

    def check(param: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(param, "a decimal", value)
        _bounded(param, value, minimum, maximum)

    return check


def _bounded(param: str, value: float, minimum: float | None, maximum: float | None) -> None:
    if minimum is not None and value < minimum:
        raise invalid(param, f"expected a value >= {minimum}, but got {value} instead.")
    if maximum is not None and value > maximum:
        raise invalid(param, f"expected a value <= {maximum}, but got {value} instead.")
