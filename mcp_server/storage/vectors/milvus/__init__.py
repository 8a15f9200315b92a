"""Vectors in Milvus: the rows in PostgreSQL decide what of them exists."""

from __future__ import annotations

from mcp_server.storage.vectors.milvus.opening import open_engine

__all__ = ["open_engine"]
