"""Objects: a manifest row decides what exists, an immutable blob holds the bytes, a collector follows."""

from __future__ import annotations

from mcp_server.services.objects.collector import Schedule, collecting
from mcp_server.services.objects.manifest import blob_namespace
from mcp_server.services.objects.service import ObjectService
from mcp_server.services.objects.shapes import (
    CommonPrefix,
    ObjectContent,
    ObjectDeleted,
    ObjectInfo,
    ObjectPage,
    ObjectStat,
    VersionPage,
)

__all__ = [
    "CommonPrefix",
    "ObjectContent",
    "ObjectDeleted",
    "ObjectInfo",
    "ObjectPage",
    "ObjectService",
    "ObjectStat",
    "Schedule",
    "VersionPage",
    "blob_namespace",
    "collecting",
]
