"""What an existing bucket's objects look like here, and which names and conditions can be used with it."""

from __future__ import annotations

from collections.abc import Mapping

from mcp_server.errors import InvalidInput
from mcp_server.services import names
from mcp_server.services.objects import content
from mcp_server.services.objects.shapes import ObjectInfo
from mcp_server.storage.buckets import Bucket, Entry


def base_of(name: str) -> str:
    return f"object://{name}/"


def info(bucket: Bucket, entry: Entry) -> ObjectInfo:
    return ObjectInfo(
        bucket=bucket.name,
        key=entry.key,
        id=base_of(bucket.name) + entry.key,
        size=entry.size,
        etag=entry.etag,
        content_type=entry.content_type or content.media_type(None, entry.key, is_text=False),
    )


def holds(seen: tuple[str, ...] | None, key: str) -> bool:
    """Tell whether a key is one of the names and `prefix*` forms; None stands for all keys."""
    return seen is None or any(
        item == key or (item.endswith("*") and key.startswith(item[:-1])) for item in seen
    )


def meets(seen: tuple[str, ...] | None, prefix: str) -> bool:
    """Tell whether something below a prefix may be one of them."""
    return holds(seen, prefix) or any(item.startswith(prefix) for item in seen or ())


def is_key(key: str) -> bool:
    """Tell whether a key that others chose can be asked for by name here."""
    try:
        return names.key(key) == key
    except InvalidInput:
        return False


def etag(condition: str | None, param: str) -> str | None:
    """Return one ETag without its quotes, or `*`; S3 takes no list of them."""
    if condition is None:
        return None
    found = condition.strip().removeprefix("W/").strip('"')
    if not found or not found.isascii() or not found.isprintable() or {",", '"'} & set(found):
        raise InvalidInput(f"{param}: give one etag or *; S3 takes no list of them", param=param)
    return found


def ascii_only(metadata: Mapping[str, str]) -> dict[str, str]:
    for name, value in metadata.items():
        if not (name + value).isascii() or not (name + value).isprintable():
            raise InvalidInput(
                f"metadata: {name[:40]!r} is not all visible ASCII, which S3 takes only",
                param="metadata",
            )
    return dict(metadata)
