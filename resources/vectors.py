"""Indexed documents as resources."""

from __future__ import annotations

import json

from mcp_server.plugins import Call, Content, resource


@resource("vector://{store}/{document}")
async def vector_document(call: Call, store: str, document: str) -> Content:
    """A document of a vector store: its text and metadata as JSON."""
    found = await call.services.vectors.get(call.principal, store, document)
    return Content(json.dumps(found, ensure_ascii=False), "application/json")
