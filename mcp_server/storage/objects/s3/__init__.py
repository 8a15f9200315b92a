"""Blobs in a bucket of MinIO, AWS or any other server that speaks S3."""

from __future__ import annotations

from mcp_server.storage.objects.s3.opening import open_engine

__all__ = ["open_engine"]
