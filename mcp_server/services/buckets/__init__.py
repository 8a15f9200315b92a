"""Existing buckets of the operator's, addressed by name as the tenants' own are."""

from __future__ import annotations

from mcp_server.services.buckets.routing import RoutedObjects
from mcp_server.services.buckets.service import BucketService, refuse_shadowing

__all__ = ["BucketService", "RoutedObjects", "refuse_shadowing"]
