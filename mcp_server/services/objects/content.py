"""What an object's bytes are: its media type, and its bytes as tool arguments and results carry them."""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from functools import cache

from typing_extensions import TypedDict

from mcp_server.errors import InvalidInput

# What a tool takes and shows at once; a model's context and a JSON message are no place for more.
MAX_ARGUMENT_BYTES = 8 * 1024 * 1024
MAX_INLINE_BYTES = 1024 * 1024

BINARY = "application/octet-stream"
PLAIN_TEXT = "text/plain"

# RFC 9110 section 8.3.1: type "/" subtype *( ";" parameter ).
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE = re.compile(rf'{_NAME}/{_NAME}(?:[ \t]*;[ \t]*{_NAME}=(?:{_NAME}|"[ !#-\[\]-~]*"))*')
_CHARSET = re.compile(r';[ \t]*charset="?([^";]+)', re.IGNORECASE)
_MAX_MEDIA_TYPE = 255

# Beyond the table of the standard library, which differs between Python versions.
_EXTENSIONS = {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".epub": "application/epub+zip",
    ".ini": PLAIN_TEXT,
    ".ipynb": "application/x-ipynb+json",
    ".js": "text/javascript",
    ".jsonl": "application/jsonl",
    ".log": PLAIN_TEXT,
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".ndjson": "application/x-ndjson",
    ".parquet": "application/vnd.apache.parquet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rst": "text/x-rst",
    ".sql": "application/sql",
    ".toml": "application/toml",
    ".webp": "image/webp",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_TEXTUAL = frozenset(
    {
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/json",
        "application/jsonl",
        "application/sql",
        "application/toml",
        "application/x-javascript",
        "application/x-ndjson",
        "application/x-sh",
        "application/x-yaml",
        "application/xml",
        "application/yaml",
    }
)


class Body(TypedDict, total=False):
    """An object's bytes in a result: one of the two."""

    text: str
    base64: str


def media_type(given: str | None, key: str, *, is_text: bool) -> str:
    """Return the object's media type: as given, else by the key's extension, else by the argument.

    The extension cannot make binary what came as text: it has to come back as text.

    Raises:
        InvalidInput: it is malformed, or names another charset than UTF-8 for `text`.
    """
    if given is None:
        found = _by_extension(key)
        if is_text:
            return found if found is not None and is_textual(found) else PLAIN_TEXT
        return found or BINARY
    given = given.strip(" \t")
    if len(given) > _MAX_MEDIA_TYPE or not _MEDIA_TYPE.fullmatch(given):
        raise InvalidInput(
            f"content_type: {given[:80]!r} is not TYPE/SUBTYPE, for example text/plain",
            param="content_type",
        )
    if is_text and not _is_utf8(given):
        raise InvalidInput(
            f"content_type: text is stored as UTF-8, {given!r} says otherwise; send base64 instead",
            param="content_type",
        )
    return given


def decode(text: str | None, encoded: str | None) -> bytes:
    """Return the bytes of the one argument that is given.

    Raises:
        InvalidInput: both or none are given, one is malformed, or they are too many.
    """
    if (text is None) == (encoded is None):
        raise InvalidInput(
            "text: give either text or base64, not both and not none of them", param="text"
        )
    body = _from_text(text) if text is not None else _from_base64(encoded or "")
    if len(body) > MAX_ARGUMENT_BYTES:
        param = "base64" if text is None else "text"
        raise InvalidInput(
            f"{param}: {len(body)} bytes are more than the {MAX_ARGUMENT_BYTES} that a call takes; "
            "store it in parts, under several keys",
            param=param,
        )
    return body


def check_inline(size: int) -> None:
    """Raise InvalidInput if `size` bytes are more than a tool shows at once."""
    if size > MAX_INLINE_BYTES:
        raise InvalidInput(
            f"range: {size} bytes are more than the {MAX_INLINE_BYTES} returned at once; read the "
            f"object in parts, the first with range [0, {MAX_INLINE_BYTES - 1}]",
            param="range",
        )


def encode(body: bytes, content_type: str) -> Body:
    """Return textual content as text if it is valid UTF-8, everything else as base64."""
    if is_textual(content_type):
        try:
            return Body(text=body.decode())
        except UnicodeDecodeError:
            pass  # other bytes than the type says, or a range that cuts a character
    return Body(base64=base64.b64encode(body).decode())


def is_textual(content_type: str) -> bool:
    """Tell whether the bytes of this media type are UTF-8 text."""
    essence = content_type.partition(";")[0].strip().lower()
    named = essence.startswith("text/") or essence in _TEXTUAL
    return (named or essence.endswith(("+json", "+xml", "+yaml"))) and _is_utf8(content_type)


def _is_utf8(content_type: str) -> bool:
    charset = _CHARSET.search(content_type)
    return charset is None or charset[1].strip().lower() in {"utf-8", "utf8", "us-ascii", "ascii"}


def _from_text(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"text: the character at {error.start} is half of a surrogate pair; send base64 instead",
            param="text",
        ) from error


def _from_base64(encoded: str) -> bytes:
    try:
        body = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed(str(error).lower()) from error
    if encoded.endswith("==="):  # which the decoder lets pass
        raise _malformed("excess padding")
    return body


def _malformed(reason: str) -> InvalidInput:
    return InvalidInput(
        f"base64: it is not base64 of RFC 4648 section 4 ({reason}); use its alphabet "
        "A-Z a-z 0-9 + / with padding and without line breaks",
        param="base64",
    )


def _by_extension(key: str) -> str | None:
    found, compression = _types().guess_type("x" + key[key.rfind("/") + 1 :])
    if compression is not None:
        return _COMPRESSED.get(compression, BINARY)
    return found


@cache
def _types() -> mimetypes.MimeTypes:
    # An own table: the module's functions read the machine's files, and so differ between machines.
    table = mimetypes.MimeTypes()
    for extension, name in _EXTENSIONS.items():
        table.add_type(name, extension)
    return table
