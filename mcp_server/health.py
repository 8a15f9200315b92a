"""Whether each engine answers, for load balancers and people."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from mcp_server.doors import DeclaredRoute

logger = logging.getLogger(__name__)

# A check returns a short detail, or raises.
Check = Callable[[], Awaitable[str]]
CHECK_SECONDS = 3.0


class EngineHealth(TypedDict):
    ok: bool
    detail: str


async def check_engines(checks: Mapping[str, Check]) -> dict[str, EngineHealth]:
    """Ask every engine at once; one that does not answer in three seconds is not well."""
    results = await asyncio.gather(*(_check(name, check) for name, check in checks.items()))
    return dict(zip(checks, results, strict=True))


async def engines_up(checks: Mapping[str, Check]) -> dict[str, bool]:
    """Tell of each engine whether it answers."""
    return {name: engine["ok"] for name, engine in (await check_engines(checks)).items()}


async def _check(name: str, check: Check) -> EngineHealth:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return EngineHealth(ok=True, detail=await check())
    except TimeoutError:
        return EngineHealth(ok=False, detail=f"no answer within {CHECK_SECONDS:.0f} seconds")
    except Exception as error:  # a door: whatever ails an engine is its health
        logger.warning("health: %s does not answer", name, exc_info=error)
        return EngineHealth(ok=False, detail=f"{type(error).__name__}; the server's log says more")


def routes(checks: Mapping[str, Check]) -> list[DeclaredRoute]:
    """Return /healthz (the process answers) and /readyz (every engine answers: 200, else 503)."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "engines": await check_engines(checks)})

    async def readyz(_: Request) -> Response:
        engines = await check_engines(checks)
        ready = all(engine["ok"] for engine in engines.values())
        body = {"status": "ok" if ready else "unavailable", "engines": engines}
        return JSONResponse(body, status_code=200 if ready else 503)

    return [
        DeclaredRoute("/healthz", healthz, methods=["GET"], verb="read", door="plain", public=True),
        DeclaredRoute("/readyz", readyz, methods=["GET"], verb="read", door="plain", public=True),
    ]
