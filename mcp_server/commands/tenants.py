"""`isthmus tenants`: list, and erase with everything derived from their data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy import text

from mcp_server.audit import Audit
from mcp_server.commands.control import control_database
from mcp_server.engines import open_engines
from mcp_server.errors import InvalidInput
from mcp_server.secret import derive, server_secret
from mcp_server.services.derived_erasure import CacheErasure, SqlErasure, VectorErasure
from mcp_server.services.erasure import Erasure
from mcp_server.settings import Settings
from mcp_server.timestamps import iso

_LIST = text(
    """
    select name, created_at, erasing_at,
        (select count(*) from api_keys where tenant = name and revoked_at is null
            and (expires_at is null or expires_at > now())) as keys
    from tenants order by name
    """
)


async def run(settings: Settings, options: argparse.Namespace) -> int:
    """Run one action and print its result."""
    if options.action == "list":
        return await _list(settings, as_json=options.json)
    return await _delete(settings, options)


async def _list(settings: Settings, *, as_json: bool) -> int:
    async with control_database(settings) as control, control.connect() as tx:
        rows = (await tx.execute(_LIST)).all()
    found = [
        {
            "name": row.name,
            "keys": row.keys,
            "created_at": iso(row.created_at),
            "erasing": row.erasing_at is not None,
        }
        for row in rows
    ]
    if as_json:
        print(json.dumps(found))
        return 0
    for row in found:
        state = "being erased: `isthmus tenants delete` goes on" if row["erasing"] else ""
        print("  ".join(str(part) for part in (row["name"], f"{row['keys']} keys", state) if part))
    return 0


async def _delete(settings: Settings, options: argparse.Namespace) -> int:
    if not options.yes:
        raise InvalidInput(
            f"this erases tenant {options.name!r} with all its data, for ever; repeat the command with --yes"
        )

    def tell(part: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[Kerasing {options.name}: {part}", end="", file=sys.stderr, flush=True)

    async with opened_erasure(settings) as erasure:
        gone = await erasure.erase(options.name, tell)
        left = {
            place: count for place, count in (await erasure.left(options.name)).items() if count
        }
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if options.json:
        print(json.dumps({"tenant": options.name, "erased": gone, "left": left}))
    else:
        parts = [f"{count} {name}" for name, count in sorted(gone.items()) if count]
        print(f"erased tenant {options.name}: {', '.join(parts) or 'it held nothing'}")
        for place, count in left.items():
            print(f"LEFT {place}: {count}")
    return 1 if left else 0


@asynccontextmanager
async def opened_erasure(settings: Settings) -> AsyncGenerator[Erasure]:
    """Yield an erasure over the engines of these settings."""
    async with AsyncExitStack() as stack:
        secret = derive(server_secret(settings), "sql roles")
        engines = await stack.enter_async_context(open_engines(settings, secret))
        audit = Audit()
        await stack.enter_async_context(audit.writing(engines.control))
        elsewhere = [
            SqlErasure(engines.sql),
            VectorErasure(engines.control, engines.vectors),
            CacheErasure(engines.cache),
        ]
        yield Erasure(engines.control, engines.blobs, elsewhere, audit)
