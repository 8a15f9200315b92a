"""A form (multipart/form-data, RFC 7578) with one file in it, read as it comes: only its short fields are held."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from openai_facade.wire.faults import InvalidRequest, missing

_MOST_HEADERS = 8 * 1024
_MOST_VALUE = 1024
_MOST_PARTS = 16


class FormStream:
    """Raises InvalidRequest if the request is no form. `fields` are known when `file` has ended."""

    def __init__(self, chunks: AsyncIterator[bytes], content_type: str, file_field: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind.lower() != b"multipart/form-data" or not boundary or len(boundary) > 70:
            raise _malformed("send it as multipart/form-data with a boundary.")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.content_type: str | None = None
        self._chunks = chunks
        self._file_field = file_field
        self._name = ""
        self._head: list[tuple[bytes, bytes]] = []
        self._header, self._value, self._sizes = b"", b"", 0
        self._parts = 0
        self._part = bytearray()
        self._ready: list[bytes] = []
        self._ended = False
        self._seen_file = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    async def file(self) -> AsyncGenerator[bytes]:
        """Yield the file's bytes, and read the form to its end.

        Raises:
            InvalidRequest: it is malformed, has no end, or holds no file or two.
        """
        async for chunk in self._chunks:
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise _malformed("a part of it is malformed.") from error
            for piece in self._ready:
                yield piece
            self._ready.clear()
        if not self._ended:
            raise _malformed("it has no end.")
        if not self._seen_file:
            raise missing(self._file_field)

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise _malformed(f"it has over {_MOST_PARTS} parts.")
        self._head, self._sizes, self._part = [], 0, bytearray()
        self._header, self._value = b"", b""

    def _bounded(self, data: bytes, start: int, end: int) -> bytes:
        self._sizes += end - start
        if self._sizes > _MOST_HEADERS:
            raise _malformed("the head of a part is too long.")
        return data[start:end]

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += self._bounded(data, start, end)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._bounded(data, start, end)

    def _header_end(self) -> None:
        self._head.append((self._header.lower(), self._value))
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        head = dict(self._head)
        _, options = parse_options_header(head.get(b"content-disposition", b""))
        self._name = _text(options.get(b"name", b""))
        if not self._name:
            raise _malformed("a part of it has no name.")
        if self._name != self._file_field:
            return
        if self._seen_file:
            raise _malformed(f"the field {self._name!r} must be there once.", self._name)
        self._seen_file = True
        self.filename = _text(options.get(b"filename", b"")) or None
        self.content_type = _text(head.get(b"content-type", b"")) or None

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == self._file_field:
            self._ready.append(data[start:end])
            return
        self._part += data[start:end]
        if len(self._part) > _MOST_VALUE:
            raise _malformed(f"the field {self._name[:80]!r} is too long.", self._name[:80])

    def _end_part(self) -> None:
        if self._name == self._file_field:
            return
        if self._name in self.fields:
            raise _malformed(f"the field {self._name!r} must be there once.", self._name)
        self.fields[self._name] = _text(bytes(self._part))

    def _end(self) -> None:
        self._ended = True


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise _malformed("a field or a name in it is not UTF-8.") from error


def _malformed(why: str, param: str | None = None) -> InvalidRequest:
    return InvalidRequest(
        f"We could not parse the form of your request: {why}", param=param, wire_code="invalid_form"
    )
