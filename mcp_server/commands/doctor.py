"""`isthmus doctor`: ask every engine whether it is well, or whether anything of a tenant is left."""

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


async def prove_erasure(settings: Settings, tenant: str, *, as_json: bool) -> int:
    """Look for a tenant in every place that could hold something of it; exit 1 if there is anything."""
    from mcp_server.commands.tenants import opened_erasure

    async with opened_erasure(settings) as erasure:
        found = await erasure.left(tenant)
        unnamed = await erasure.unnamed_blobs()
    if as_json:
        print(json.dumps({"tenant": tenant, "left": found, "unnamed_blobs": unnamed}))
    else:
        for place, count in found.items():
            print(f"{'BAD' if count else 'ok '} {place}: {count}")
        if unnamed:
            print(f"    {unnamed} blobs wait for their collection; no row tells whose they were")
        clean = not any(found.values())
        print(f"nothing of tenant {tenant} is left" if clean else f"tenant {tenant} is still there")
    return 1 if any(found.values()) else 0
