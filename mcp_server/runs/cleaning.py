"""What of a value may be stored: JSON that every store and client can hold, cut to a number of bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from json.encoder import encode_basestring_ascii
from typing import Any, cast

from mcp_server.errors import InvalidInput

# Bytes of JSON as it is stored, in ASCII: a letter of another script takes six of them.
MAX_EVENT_BYTES = 1_000_000
MAX_RESULT_BYTES = 4_000_000
MAX_INPUT_BYTES = 16_000_000

MAX_DEPTH = 100
# A field that is at most this long is kept before those that are longer.
_SHORT = 200
# Python writes no more digits than 4300, and no client reads nearly as many.
_MAX_INTEGER_BITS = 4096
# Room for the mark that says what was cut, for a last field, its name and more on each level.
_MARK_BYTES = 64
_MARKS_BYTES = 4 * _MARK_BYTES * (MAX_DEPTH + 2)


def clean(value: Any, most: int = MAX_RESULT_BYTES) -> Any:
    """Give a copy without NUL, lone surrogates, NaN or bytes, in at most `most` bytes of JSON.

    `most` is at least 50,000. What is over is cut, the long before the short, and a mark says how long
    it was: at the end of a text, as a list's last item, as a field `[cut]`. The time is bounded by
    `most`, however big the value is; what is clean stays as it is.
    """
    try:
        return _Cleaner(most, cutting=False).copy(value, 0)
    except _Full:
        return _Cleaner(most - _MARKS_BYTES, cutting=True).copy(value, 0)


def clean_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """Clean one event; it takes at most a million bytes of JSON."""
    return clean(event, MAX_EVENT_BYTES)


def clean_input(value: Any) -> Any:
    """Clean what a run is to work on, of which nothing is cut.

    Raises:
        InvalidInput: it takes over 16 MB of JSON.
    """
    try:
        return _Cleaner(MAX_INPUT_BYTES, cutting=False).copy(value, 0)
    except _Full:
        raise InvalidInput(
            f"input: it is over {MAX_INPUT_BYTES:,} bytes of JSON; put the data into an object and "
            "name that",
            param="input",
        ) from None


class _Full(Exception):
    """There is no room for the whole of it."""


class _Cleaner:
    """Copies a value while there is room, counted in bytes of JSON."""

    def __init__(self, room: int, *, cutting: bool) -> None:
        self._room = room
        self._cutting = cutting

    def copy(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, bool | int | float):
            return self._plain(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._bytes(bytes(cast("bytes", value)))
        if depth >= MAX_DEPTH:
            return self._text(f"[cut: nested deeper than {MAX_DEPTH}]")
        if isinstance(value, Mapping):
            return self._object(cast("Mapping[object, object]", value), depth + 1)
        if isinstance(value, Sequence | Set):
            return self._list(cast("Sequence[object] | Set[object]", value), depth + 1)
        return self._text(str(value))

    def _spend(self, size: int) -> None:
        self._room -= size + 1  # and what stands between it and the next
        if self._room < 0 and not self._cutting:
            raise _Full

    def _plain(self, value: float | None) -> Any:
        if isinstance(value, float):
            value = float(value) if math.isfinite(value) else None
        elif isinstance(value, int) and not isinstance(value, bool):
            if value.bit_length() > _MAX_INTEGER_BITS:
                return self._text(f"[cut: {value.bit_length()} bits in all]")
            value = int(value)
        self._spend(len(repr(value)))
        return value

    def _bytes(self, value: bytes) -> str:
        start = value[: max(self._room, 0) + 4]
        mark = "" if len(start) == len(value) else f"[cut: {len(value)} bytes in all]"
        if mark and not self._cutting:
            raise _Full
        return self._text(start.decode("utf-8", "replace"), mark)

    def _text(self, value: str, mark: str = "") -> str:
        if len(value) > self._room and not self._cutting:
            raise _Full
        kept = _storable(value[: max(self._room, _MARK_BYTES)])
        size = len(encode_basestring_ascii(kept))
        whole = len(kept) == len(value) and not mark
        if self._cutting and not (whole and size <= max(self._room, _MARK_BYTES)):
            mark = mark or f"[cut: {len(value)} characters in all]"
            while kept and size > max(self._room, 0):
                kept = kept[: min(len(kept) - 1, len(kept) * max(self._room, 0) // size)]
                size = len(encode_basestring_ascii(kept))
        self._spend(size + len(mark))
        return kept + mark

    def _list(self, value: Sequence[object] | Set[object], depth: int) -> list[Any]:
        self._spend(2)
        done: list[Any] = []
        for item in value:
            if self._room <= 0 and self._cutting:
                return [*done, self._text(f"[cut: {len(value)} items in all]")]
            done.append(self.copy(item, depth))
        return done

    def _object(self, value: Mapping[object, object], depth: int) -> dict[str, Any]:
        self._spend(2)
        done: dict[object, tuple[str, Any]] = {}
        for short in (True, False):
            for name, item in value.items():
                if self._room <= 0 and self._cutting:
                    break
                if _short(item) is short:
                    done[name] = self._text(str(name)), self.copy(item, depth)
        kept = dict(done[name] for name in value if name in done)
        if len(done) < len(value):
            kept["[cut]"] = self._text(f"{len(value)} fields in all")
            self._spend(len("[cut]") + 2)
        return kept


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _short(value: object) -> bool:
    if isinstance(value, str | bytes):
        return len(value) <= _SHORT
    return value is None or isinstance(value, int | float)
