"""The embedded blob store: one directory, shared by all local processes that open it."""

from __future__ import annotations

from mcp_server.storage.objects.file.store import FileStore, open_file_store

__all__ = ["FileStore", "open_file_store"]
