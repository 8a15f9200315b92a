"""The fields of a form (multipart/form-data, RFC 7578) that is passed on: read one, or put another value into it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message

from openai_facade.wire.faults import InvalidRequest

_NAME = re.compile(rb'\r?\ncontent-disposition:[^\r\n]*?[;\s]name="([^"]*)"', re.IGNORECASE)
_MOST_VALUE = 1024
_BOUNDARY = re.compile(r"[ -~]{1,70}")


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    start: int
    end: int


class Form:
    """A form as it came. Raises InvalidRequest if it is none."""

    def __init__(self, data: bytes, content_type: str) -> None:
        self.data = data
        self._parts = _parts(data, _boundary(content_type))

    def field(self, name: str) -> str | None:
        """Give the text of a field, None if it is not there.

        Raises:
            InvalidRequest: it is there twice, too long, or not UTF-8.
        """
        found = [part for part in self._parts if part.name == name]
        if not found:
            return None
        value = self.data[found[0].start : found[0].end]
        if len(found) > 1 or len(value) > _MOST_VALUE:
            raise _malformed(f"the field {name!r} must be there once, and be short.", name)
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise _malformed(f"the field {name!r} is not UTF-8.", name) from error

    def with_field(self, name: str, value: str) -> bytes:
        """Give the form with another value of a field that is there."""
        part = next(part for part in self._parts if part.name == name)
        return self.data[: part.start] + value.encode() + self.data[part.end :]


def _boundary(content_type: str) -> bytes:
    header = Message()
    header["content-type"] = content_type
    found = header.get_param("boundary")
    if not isinstance(found, str) or not _BOUNDARY.fullmatch(found):
        raise _malformed("the Content-Type names no boundary.")
    return b"--" + found.encode()


def _parts(data: bytes, boundary: bytes) -> list[_Part]:
    parts: list[_Part] = []
    at = 0 if data.startswith(boundary) else data.find(b"\r\n" + boundary) + 2
    if at == 1:
        raise _malformed("no part begins in it.")
    while True:
        begun = at + len(boundary)
        if data.startswith(b"--", begun):
            return parts
        end = data.find(b"\r\n" + boundary, begun)
        head = data.find(b"\r\n\r\n", begun)
        if end < 0 or not 0 <= head <= end:
            raise _malformed("a part of it has no end.")
        name = _NAME.search(data, begun, head)
        if name is None:
            raise _malformed("a part of it has no name.")
        parts.append(_Part(name[1].decode("utf-8", "replace"), min(head + 4, end), end))
        at = end + 2


def _malformed(why: str, param: str | None = None) -> InvalidRequest:
    return InvalidRequest(
        f"We could not parse the form of your request: {why}", param=param, wire_code="invalid_form"
    )
