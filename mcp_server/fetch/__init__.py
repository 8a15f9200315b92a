"""The one way to an outside URL: guarded against being led to what is inside."""

from __future__ import annotations

from mcp_server.fetch.allowed import Allowed
from mcp_server.fetch.client import MOST_SECONDS, Fetched, Fetcher

__all__ = ["MOST_SECONDS", "Allowed", "Fetched", "Fetcher"]
