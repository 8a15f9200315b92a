"""What the object service answers, and how rows of the manifest become it."""

from __future__ import annotations

from typing import Any, NotRequired

from sqlalchemy import Row
from typing_extensions import TypedDict

from mcp_server.timestamps import iso, iso_or_none


class ObjectInfo(TypedDict):
    """One object; `size` in bytes, `etag` the MD5 of its bytes, `id` stays when it is overwritten."""

    bucket: str
    key: str
    id: str
    size: int
    etag: str
    content_type: str


class ObjectContent(ObjectInfo):
    """One object with the bytes asked for: as text if they are text, else as base64."""

    text: NotRequired[str]
    base64: NotRequired[str]


class ObjectStat(ObjectInfo):
    """All that is known of one version; times are ISO 8601 in UTC, `replaced_at` None for the present one."""

    sha256: str
    version: int
    metadata: dict[str, str]
    tags: dict[str, str]
    created_at: str
    updated_at: str
    replaced_at: str | None


class CommonPrefix(TypedDict):
    """Stands for all keys that begin with it."""

    prefix: str


class ObjectPage(TypedDict):
    items: list[ObjectInfo | CommonPrefix]
    next_cursor: str | None


class VersionPage(TypedDict):
    """The versions of one object, newest first."""

    items: list[ObjectStat]
    next_cursor: str | None


class ObjectDeleted(TypedDict):
    deleted: bool


def info(row: Row[Any]) -> ObjectInfo:
    return ObjectInfo(
        bucket=row.bucket,
        key=row.key,
        id=row.id,
        size=row.size,
        etag=row.etag,
        content_type=row.content_type,
    )


def stat(row: Row[Any]) -> ObjectStat:
    return ObjectStat(
        **info(row),
        sha256=row.sha256,
        version=row.version,
        metadata=row.metadata,
        tags=row.tags,
        created_at=iso(row.created_at),
        updated_at=iso(row.updated_at),
        replaced_at=iso_or_none(row.replaced_at),
    )


def item(row: Row[Any]) -> ObjectInfo | CommonPrefix:
    return info(row) if row.common is None else CommonPrefix(prefix=row.common)
