"""`isthmus doctor`: ask every engine whether it is well."""

from __future__ import annotations

import json

from mcp_server.health import check_engines
from mcp_server.runtime import open_runtime
from mcp_server.settings import Settings


async def doctor(settings: Settings, *, as_json: bool) -> int:
    """Open everything as a server would, print each engine's health, exit 1 if one is not well."""
    async with open_runtime(settings, concurrency=0) as runtime:
        engines = await check_engines(runtime.engines.checks)
    if as_json:
        print(json.dumps({"engines": engines}))
    else:
        for name, engine in engines.items():
            print(f"{'ok ' if engine['ok'] else 'BAD'} {name}: {engine['detail']}")
    return 0 if all(engine["ok"] for engine in engines.values()) else 1
