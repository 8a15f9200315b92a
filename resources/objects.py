"""Objects as resources."""

from __future__ import annotations

from base64 import b64decode

from mcp_server.plugins import Call, Content, resource


@resource("object://{bucket}/{+key}")
async def object_content(call: Call, bucket: str, key: str) -> Content:
    """The bytes of an object with its media type: text as text, anything else as a blob."""
    item = await call.services.objects.get(call.principal, bucket, key)
    if "text" in item:
        return Content(item["text"], item["content_type"])
    return Content(b64decode(item.get("base64", "")), item["content_type"])
