"""How the values of settings are read from text: lists, days, rates and URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

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


@dataclass(frozen=True)
class NamedDatabase:
    """A database of the operator's: read only unless `writable`; unqualified names mean `schema`.

    Its text leaves the URL out, which holds a password.
    """

    name: str
    url: str = field(repr=False)
    writable: bool = False
    schema: str = "public"


_NAMED = re.compile(r"([a-z][a-z0-9_-]{0,62})=(postgres(?:ql)?://.+)", re.DOTALL)
# Each begins with a name of its own: a URL may have commas.
_NEXT_NAMED = re.compile(r",(?=\s*[A-Za-z0-9_-]+=postgres)")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# What of libpq's parameters the driver knows. It would send any other to the server as a setting, and a
# misspelt `mode` would be one of those.
_LIBPQ = """
    host port user password dbname database passfile sslmode sslcert sslkey sslrootcert sslpassword
    sslcrl sslnegotiation ssl_min_protocol_version ssl_max_protocol_version target_session_attrs
    krbsrvname gsslib
"""


def _databases(value: object) -> object:
    """Read `NAME=postgresql://…[?mode=rw][&schema=NAME]`, separated by commas, or a list of them."""
    if isinstance(value, str):
        value = [item for item in _NEXT_NAMED.split(value) if item.strip()]
    found = [
        item if isinstance(item, NamedDatabase) else _database(at, str(item))
        for at, item in enumerate(cast("list[object]", value), start=1)
    ]
    names = [item.name for item in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is given twice; rename one")
    return tuple(found)


def _database(at: int, text: str) -> NamedDatabase:
    """Read one. No error shows any of the URL.

    Raises:
        ValueError: it does not fit.
    """
    example = "NAME=postgresql://USER:PASSWORD@HOST:5432/DB?mode=rw"
    match = _NAMED.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"item {at} is not {example} with a NAME of a-z, 0-9, _ and -")
    name, url = match.groups()
    if name == "main":
        raise ValueError("'main' is each tenant's own schema; give the database another name")
    try:
        parts = urlsplit(url)
        _ = parts.port
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(f"{name!r}: the URL is malformed; give {example}") from None
    given = dict(query)
    mode, schema = given.pop("mode", "ro"), given.pop("schema", "public")
    if mode not in ("ro", "rw"):
        raise ValueError(f"{name!r}: mode is neither ro nor rw")
    if not _SCHEMA.fullmatch(schema) or schema.startswith("pg_"):
        raise ValueError(f"{name!r}: schema is not the plain name of a schema")
    for key in given:
        if key not in _LIBPQ.split():
            raise ValueError(
                f"{name!r}: the parameter {key[:40]!r} is unknown; it has mode and schema"
            )
    user, database = given.get("user"), given.get("dbname") or given.get("database")
    if not (parts.username or user) or not (parts.path.strip("/") or database):
        raise ValueError(f"{name!r}: the URL names no user or no database; give {example}")
    if len(given) + ("mode" in dict(query)) + ("schema" in dict(query)) != len(query):
        raise ValueError(f"{name!r}: a parameter is given twice")
    plain = urlunsplit(parts._replace(query=urlencode(given)))
    return NamedDatabase(name, plain, mode == "rw", schema)


Databases = Annotated[tuple[NamedDatabase, ...], NoDecode, BeforeValidator(_databases)]
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
