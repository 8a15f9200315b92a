"""What must be there for a write to take place: decided under the row's lock, the same on every engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Row

from mcp_server.errors import Conflict


class Guard(Protocol):
    """Judges the present row of an object, None if there is no object."""

    def check(self, row: Row[Any] | None) -> None:
        """Raise Conflict, which says what is there, if the write must not take place."""
        ...


@dataclass(frozen=True, slots=True)
class Condition:
    """What an object's ETag must or must not be for a write, as in RFC 9110; `*` is any object."""

    if_match: str | None = None
    if_none_match: str | None = None

    def __bool__(self) -> bool:
        return self.if_match is not None or self.if_none_match is not None

    def check(self, row: Row[Any] | None) -> None:
        """Judge the present object.

        Raises:
            Conflict: says what is there.
        """
        etag: str | None = None if row is None else row.etag
        if self.if_match is not None and (etag is None or not names_etag(self.if_match, etag)):
            found = "there is no such object" if etag is None else f"etag is {etag}"
            raise Conflict(found, param="if_match")
        unwanted = self.if_none_match
        if unwanted is not None and etag is not None and names_etag(unwanted, etag):
            raise Conflict(f"the object exists, etag is {etag}", param="if_none_match")


@dataclass(frozen=True, slots=True)
class Every:
    """Conditions that must all hold."""

    conditions: tuple[Condition, ...]

    def __bool__(self) -> bool:
        return any(self.conditions)

    def check(self, row: Row[Any] | None) -> None:
        for condition in self.conditions:
            condition.check(row)


@dataclass(frozen=True, slots=True)
class Current:
    """The version that must be current, 0 for no object."""

    version: int

    def __bool__(self) -> bool:
        return True

    def check(self, row: Row[Any] | None) -> None:
        found: int = 0 if row is None else row.version
        if found != self.version:
            raise Conflict(f"changed since, version is {found}")


def names_etag(condition: str, etag: str) -> bool:
    """Tell whether a condition, `*` or ETags joined by commas, names this one."""
    # HTTP quotes ETags; a model that passes on what it saw does not.
    given = [part.strip() for part in condition.split(",")]
    return "*" in given or etag in {part.removeprefix("W/").strip('"') for part in given}
