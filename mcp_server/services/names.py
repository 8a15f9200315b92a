"""What a namespace, bucket, store, agent or key may be called, and how pages are cut."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata

from mcp_server.errors import InvalidInput

# A container's name stands in URIs and in file listings, so it stays plain.
_CONTAINER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")
MAX_KEY_BYTES = 1024
DEFAULT_PAGE = 100
MAX_PAGE = 1000

# Controls reorder or hide text in a terminal or a dashboard; a key needs none of them.
_FORBIDDEN_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def container(value: str, param: str) -> str:
    """Return the name of a namespace, bucket, store or agent.

    Raises:
        InvalidInput: it is not 1-128 letters, digits and `. _ / -`, or has an empty or dotted part.
    """
    parts = value.split("/")
    if not _CONTAINER.fullmatch(value) or any(part in {"", ".", ".."} for part in parts):
        raise InvalidInput(
            f"{param}: {value[:80]!r} is not a name; use 1-128 letters, digits and . _ - /, "
            "beginning and ending with a letter or digit",
            param=param,
        )
    return value


def key(value: str, param: str = "key") -> str:
    """Return a key: any Unicode text of 1-1024 UTF-8 bytes without control or bidi characters.

    Raises:
        InvalidInput: it is empty, too long, or holds such a character.
    """
    if not value:
        raise InvalidInput(f"{param}: it is empty; give at least one character", param=param)
    if len(value) > MAX_KEY_BYTES or len(value.encode("utf-8", "replace")) > MAX_KEY_BYTES:
        raise InvalidInput(
            f"{param}: it is longer than the {MAX_KEY_BYTES} bytes allowed; shorten it", param=param
        )
    for char in value:
        if unicodedata.category(char) in _FORBIDDEN_CATEGORIES or char in _BIDI:
            raise InvalidInput(
                f"{param}: the character U+{ord(char):04X} is not allowed in a key; leave it out",
                param=param,
            )
    return value


def prefix(value: str | None, param: str = "prefix") -> str:
    """Return a key prefix; None and the empty string mean every key."""
    return key(value, param) if value else ""


def page_size(limit: int | None) -> int:
    """Return a page size of 1-1000, 100 if none is given.

    Raises:
        InvalidInput: the limit is outside that range.
    """
    if limit is None:
        return DEFAULT_PAGE
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit: {limit} is not within 1-{MAX_PAGE}", param="limit")
    return limit


def encode_cursor(last_key: str) -> str:
    """Return an opaque cursor that continues after `last_key`."""
    return base64.urlsafe_b64encode(last_key.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> str | None:
    """Return the key to continue after.

    Raises:
        InvalidInput: the cursor was not given out by this server.
    """
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text or "\0" in text:
        raise InvalidInput(
            f"cursor: {cursor[:40]!r} is no cursor; pass next_cursor of the page before",
            param="cursor",
        )
    return text
