"""What a request's headers ask of a representation: which bytes of it, and whether at all (RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from mcp_server.errors import AppError

# RFC 9110 section 14.1.2: first-last, first- or -suffix; several ranges at once are answered as a whole.
_RANGE = re.compile(r"bytes=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.ASCII)


class RangeNotSatisfiable(AppError):
    """The range begins past the end of a representation of `size` bytes."""

    code = "invalid_input"
    status = 416

    def __init__(self, size: int) -> None:
        super().__init__(f"range: the object has {size} bytes")
        self.size = size


class PreconditionFailed(AppError):
    """A condition of the request's headers does not hold."""

    code = "conflict"
    status = 412


class Judgement(Enum):
    SEND = "send"
    NOT_MODIFIED = "not modified"


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to, not including, `end`; `partial` if a range was asked for."""

    start: int
    end: int
    partial: bool


def judge(headers: Mapping[str, str], etag: str) -> Judgement:
    """Decide by If-Match and If-None-Match whether a GET or HEAD sends anything.

    Raises:
        PreconditionFailed: another representation is asked for.
    """
    wanted, known = headers.get("if-match"), headers.get("if-none-match")
    if wanted is not None and not _holds(wanted, etag, strong=True):
        raise PreconditionFailed(f"the object's etag is {etag}")
    if known is not None and _holds(known, etag, strong=False):
        return Judgement.NOT_MODIFIED
    return Judgement.SEND


def span(headers: Mapping[str, str], etag: str, size: int) -> Span:
    """Return the bytes that Range and If-Range ask for; a malformed or multiple range asks for all.

    Raises:
        RangeNotSatisfiable: none of them exists.
    """
    whole = Span(0, size, partial=False)
    found = _RANGE.fullmatch(headers.get("range", ""))
    only_if = headers.get("if-range")
    if found is None or (only_if is not None and not _holds(only_if, etag, strong=True)):
        return whole
    first, last = found.groups()
    if not first and not last:
        return whole
    if not first:
        length = min(int(last), size)
        if not length:
            raise RangeNotSatisfiable(size)
        return Span(size - length, size, partial=True)
    start, end = int(first), int(last) + 1 if last else size
    if last and end <= start:
        return whole
    if start >= size:
        raise RangeNotSatisfiable(size)
    return Span(start, min(end, size), partial=True)


def _holds(given: str, etag: str, *, strong: bool) -> bool:
    parts = [part.strip() for part in given.split(",")]
    if "*" in parts:
        return True
    quoted = f'"{etag}"'
    return any(part == quoted or (not strong and part == f"W/{quoted}") for part in parts)
