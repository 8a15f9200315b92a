"""Resources that the suite lists, reads and subscribes to."""

from __future__ import annotations

import json
from pathlib import Path

from mcp_server.plugins import resource

_PIXEL = (Path(__file__).parents[1] / "pixel.png").read_bytes()


@resource("test://static-text", mime_type="text/plain")
async def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


@resource("test://static-binary", mime_type="image/png")
async def static_binary() -> bytes:
    """An image."""
    return _PIXEL


@resource("test://watched-resource", mime_type="text/plain")
async def watched() -> str:
    """A text to subscribe to."""
    return "This resource can be watched."


@resource("test://template/{id}/data", mime_type="application/json")
async def from_template(id: str) -> str:  # noqa: A002 - the name in the URI template
    """Data that depends on the address."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})
