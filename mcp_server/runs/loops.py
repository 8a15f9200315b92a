"""A turn that is taken for ever: on every wake-up, and now and then without one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mcp_server.runs.outage import through_outage

logger = logging.getLogger(__name__)

_AFTER_DEFECT_SECONDS = 1.0


async def forever(
    turn: Callable[[], Awaitable[None]],
    *,
    pause: float,
    news: asyncio.Event | None = None,
    least: float = 0.0,
) -> None:
    """Take turns `pause` seconds apart, earlier when there is `news` but never within `least` seconds.

    A turn that the database does not answer is taken again; one that fails is logged.
    """
    news = news or asyncio.Event()
    while True:
        news.clear()
        try:
            await through_outage(turn)
        except Exception:  # whatever it was, the next turn must come
            logger.exception("runs: %s failed", getattr(turn, "__qualname__", turn))
            await asyncio.sleep(_AFTER_DEFECT_SECONDS)
        await asyncio.sleep(least)
        try:
            async with asyncio.timeout(pause):
                await news.wait()
        except TimeoutError:
            continue
