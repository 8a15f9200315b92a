"""Files for a process without data of its own: read over the bus, in parts that a tool shows at once."""

from __future__ import annotations

import base64
from typing import Any, cast

from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus
from mcp_server.bus_errors import told_error
from mcp_server.services.media import BUCKET, Media, media_of, too_large

PART_BYTES = 1024 * 1024
"""What `object_get` shows at once."""


class FilesOverBus:
    """Reads each file through the object tools, as the caller."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def read(self, principal: Principal, file: str, max_bytes: int) -> Media:
        """Read one version of a file, whole.

        Raises:
            NotFound: there is none with this id. LimitExceeded: it is larger than `max_bytes`.
        """
        at: dict[str, Any] = {"bucket": BUCKET, "key": file}
        stat = await self._call(principal, "object_stat", at)
        size = int(stat["size"])
        if size > max_bytes:
            raise too_large(max_bytes)
        parts: list[bytes] = []
        for first in range(0, size, PART_BYTES):
            span = [first, min(first + PART_BYTES, size) - 1]
            wanted = at | {"version": stat["version"], "range": span}
            part = await self._call(principal, "object_get", wanted)
            if "text" in part:
                parts.append(part["text"].encode())
            else:
                parts.append(base64.b64decode(part["base64"]))
        return media_of(b"".join(parts), stat["content_type"], stat["metadata"], file)

    async def _call(
        self, principal: Principal, tool: str, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        result = await self._bus.call(principal, tool, arguments)
        if result.is_error:
            raise told_error(result.text)
        return cast("dict[str, Any]", result.structured)
