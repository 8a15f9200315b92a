"""Vector stores: documents in, passages out."""

from __future__ import annotations

from mcp_server.services.vectors.reading import Mode
from mcp_server.services.vectors.results import (
    VectorAdded,
    VectorDeleted,
    VectorDocument,
    VectorItem,
    VectorPage,
    VectorResult,
    VectorResults,
    VectorStoreDeleted,
    VectorUpdated,
)
from mcp_server.services.vectors.service import VectorService

__all__ = [
    "Mode",
    "VectorAdded",
    "VectorDeleted",
    "VectorDocument",
    "VectorItem",
    "VectorPage",
    "VectorResult",
    "VectorResults",
    "VectorService",
    "VectorStoreDeleted",
    "VectorUpdated",
]
