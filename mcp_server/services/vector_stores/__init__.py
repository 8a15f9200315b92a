"""Vector stores as OpenAI's API speaks of them: stores with a label and an expiry, and files that are read into them."""

from __future__ import annotations

from mcp_server.services.vector_stores.records import (
    Attached,
    BatchRecord,
    Chunking,
    FileCounts,
    FileRecord,
    GivenFile,
    Paging,
    StoreChange,
    StoreRecord,
    StoreTerms,
    UnknownCursor,
)

__all__ = [
    "Attached",
    "BatchRecord",
    "Chunking",
    "FileCounts",
    "FileRecord",
    "GivenFile",
    "Paging",
    "StoreChange",
    "StoreRecord",
    "StoreTerms",
    "UnknownCursor",
]
