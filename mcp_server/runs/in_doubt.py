"""Repeat a call whose outcome is in doubt until it is known what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mcp_server.errors import LeaseLost, Timeout, Unavailable

T = TypeVar("T")

# An engine that refused once often answers a moment later. A call that takes long to fail is repeated
# less often: once its tries have taken so many seconds, one more is the last.
PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
TRYING_SECONDS = 6.0

# A call that was refused because the run is lost is in doubt too: the store, asked next, ends the work.
_IN_DOUBT = (f"{Unavailable.code}: ", f"{Timeout.code}: ", str(LeaseLost()))


def in_doubt(text: str) -> bool:
    """Tell whether a tool's error says that an engine broke off, perhaps after it had done its work."""
    return text.startswith(_IN_DOUBT)


async def settled(
    attempt: Callable[[], Awaitable[T]],
    doubtful: Callable[[T], bool],
    ready: Callable[[], Awaitable[None]],
) -> T:
    """Return the outcome of `attempt`, repeated while it is `doubtful`; its key makes that harmless.

    `ready` returns once the runs' own store answers: how long that is away does not count.
    """
    clock = asyncio.get_running_loop().time
    spent = 0.0
    for pause in PAUSES:
        tried_at = clock()
        outcome = await attempt()
        if not doubtful(outcome):
            return outcome
        spent += clock() - tried_at
        await asyncio.sleep(pause)
        await ready()
        if spent > TRYING_SECONDS:
            break
    return await attempt()
