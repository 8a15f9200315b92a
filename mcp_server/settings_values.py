"""How the values of settings are read from text: lists, days, rates and URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast
from urllib.parse import urlsplit

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

MOST_DAYS = 36_500
RATE_UNITS = ("second", "minute", "hour", "day")


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part for part in (item.strip() for item in value.split(",")) if part)
    return value


@dataclass(frozen=True)
class RunDays:
    """For how many days ended runs are kept, by kind; every other kind: `others`."""

    others: float = 30.0
    kinds: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return ",".join([f"{self.others:g}", *(f"{kind}={days:g}" for kind, days in self.kinds)])

    def seconds(self, kind: str) -> float:
        """Return the time for `kind`; `tool` stands for every `tool/NAME` that is not named itself."""
        known = dict(self.kinds)
        days = known.get(kind, known.get(kind.partition("/")[0], self.others))
        return days * 86_400


def _run_days(value: object) -> object:
    """Read `30` or `30,agent=90,tool=7`; a number or a list from TOML."""
    if isinstance(value, RunDays):
        return value
    found: dict[str, float] = {}
    listed = isinstance(value, list | tuple)
    for part in cast("list[object]", value) if listed else str(value).split(","):
        kind, named, days = (piece.strip() for piece in str(part).rpartition("="))
        found[kind] = float(days) if re.fullmatch(r"\d+(\.\d+)?", days) else 0.0
        if not 0 < found[kind] <= MOST_DAYS or (named and not kind):
            raise ValueError(
                f"{part!r} is no number of days; give for example 30, or 30,agent=90,tool=7"
            )
    return RunDays(found.pop("", RunDays.others), tuple(found.items()))


def _field_names(value: object) -> object:
    names = cast("tuple[object, ...]", _split(value))
    return () if names == ("off",) else tuple(str(name).lower() for name in names)


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
PathList = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)]
FieldNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_field_names)]
Days = Annotated[RunDays, NoDecode, BeforeValidator(_run_days)]


def check_rate(value: str) -> str:
    """Return `N/unit` in its plain form.

    Raises:
        ValueError: it is not a positive count per second, minute, hour or day.
    """
    count, _, unit = value.strip().partition("/")
    unit = unit.strip().rstrip("s")
    if not count.strip().isdigit() or int(count) < 1 or unit not in RATE_UNITS:
        raise ValueError(f"{value!r} is not a rate; give for example 120/minute")
    return f"{int(count)}/{unit}"


def check_url(value: str | None, schemes: tuple[str, ...], example: str) -> str | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        wrong = parts.scheme not in schemes or not (parts.netloc or parts.path or parts.query)
        _ = parts.port
    except ValueError:
        wrong = True
    if wrong or "://" not in value:
        raise ValueError(f"the URL is malformed; give for example {example}")
    return value
