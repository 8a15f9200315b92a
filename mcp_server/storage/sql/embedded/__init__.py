"""Embedded PostgreSQL: one cluster per data directory, shared by all local processes that open it."""

from __future__ import annotations

from mcp_server.storage.sql.embedded.cluster import Cluster, open_cluster

__all__ = ["Cluster", "open_cluster"]
