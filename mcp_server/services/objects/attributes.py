"""What callers say of an object beside its bytes: metadata and tags, within bounds."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from mcp_server.errors import InvalidInput

MOST_METADATA, MOST_METADATA_BYTES = 64, 8 * 1024
# Those of S3: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
MOST_TAGS, MOST_TAG_NAME, MOST_TAG_VALUE = 10, 128, 256


def metadata(given: Mapping[str, str] | None) -> dict[str, str]:
    """Return metadata: up to 64 names with texts, 8 KiB in all.

    Raises:
        InvalidInput: they are more, or one holds a control character.
    """
    checked = {_text(name, "metadata"): _text(value, "metadata") for name, value in _items(given)}
    size = sum(len(name.encode()) + len(value.encode()) for name, value in checked.items())
    if len(checked) > MOST_METADATA or size > MOST_METADATA_BYTES:
        raise InvalidInput(
            f"metadata: {len(checked)} entries of {size} bytes are more than the {MOST_METADATA} "
            f"entries and {MOST_METADATA_BYTES} bytes allowed; store the rest as an object",
            param="metadata",
        )
    return checked


def tags(given: Mapping[str, str] | None) -> dict[str, str]:
    """Return tags: up to 10, names of 1-128 and values of 0-256 characters.

    Raises:
        InvalidInput: they are more or longer, or one holds a control character.
    """
    checked = {_text(name, "tags"): _text(value, "tags") for name, value in _items(given)}
    if len(checked) > MOST_TAGS:
        raise InvalidInput(f"tags: {len(checked)} are more than {MOST_TAGS}", param="tags")
    for name, value in checked.items():
        if len(name) > MOST_TAG_NAME or len(value) > MOST_TAG_VALUE:
            raise InvalidInput(
                f"tags: {name[:40]!r} or its value is longer than {MOST_TAG_NAME} or "
                f"{MOST_TAG_VALUE} characters; shorten it",
                param="tags",
            )
    return checked


def _items(given: Mapping[str, str] | None) -> list[tuple[str, str]]:
    items = list((given or {}).items())
    if any(not name for name, _ in items):
        raise InvalidInput("metadata and tags: a name is empty; give it one character at least")
    return items


def _text(value: str, param: str) -> str:
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in value):
        raise InvalidInput(
            f"{param}: {value[:40]!r} holds a control character; leave it out", param=param
        )
    return value
