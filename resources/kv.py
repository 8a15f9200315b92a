"""Keys as resources."""

from __future__ import annotations

import json

from mcp_server.plugins import Call, Content, resource


@resource("kv://{namespace}/{+key}")
async def kv_item(call: Call, namespace: str, key: str) -> Content:
    """The value of a key: a string as text, anything else as JSON."""
    item = await call.services.kv.get(call.principal, namespace, key)
    value = item["value"]
    if isinstance(value, str):
        return Content(value, "text/plain")
    return Content(json.dumps(value, ensure_ascii=False), "application/json")
