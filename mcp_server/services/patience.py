"""Asking again while the control database is away: a run outlasts that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mcp_server.errors import Unavailable

T = TypeVar("T")

# For how long a run waits for a database that cannot tell its rights.
PATIENCE_SECONDS = 90.0
_PAUSE_SECONDS = 0.2


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Return the answer of something safe to ask again that may be unavailable for a while.

    Raises:
        Unavailable: it was so for 90 seconds.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + PATIENCE_SECONDS
    while True:
        try:
            return await ask()
        except Unavailable:
            if clock() > until:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)
