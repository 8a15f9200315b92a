"""Resources that behave as no resource should."""

from __future__ import annotations

from typing import Any

from mcp_server.errors import Conflict
from mcp_server.plugins import Call, resource


@resource("odd://{kind}")
async def odd(call: Call, kind: str) -> Any:
    """Fail, or show what no resource should show."""
    del call
    match kind:
        case "raise":
            raise RuntimeError("the inside of the server")
        case "refuse":
            raise Conflict("as announced")
        case "exit":
            raise SystemExit("the inside of the server")
        case "surrogate":
            return "\ud800"
        case "object":
            return object()
        case _:
            return f"{kind} is fine"
