"""Keeps schedules and triggers going: looks for what is due, for news, and for keys that died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from mcp_server.runs.loops import forever
from mcp_server.services.schedules import ScheduleService
from mcp_server.services.triggers import TriggerService
from mcp_server.storage.sql.wake import Wake

DUE_SECONDS = 0.5
# A key that dies stops what it saved within a second.
DEAD_SECONDS = 0.4
NEWS_SECONDS = 1.0
# In a busy tenant something changes all the time: its triggers look five times a second at most.
LEAST_NEWS_SECONDS = 0.2


@asynccontextmanager
async def keeping_standing(
    schedules: ScheduleService,
    triggers: TriggerService,
    wake: Wake,
    keeper: Callable[[], bool] = lambda: True,
) -> AsyncGenerator[None]:
    """Fire schedules and triggers while the context is open, whenever this process is the keeper.

    Any number of processes may do so at once; one spares the others the questions.
    """

    async def fire_due() -> None:
        if keeper():
            await schedules.fire_due()

    async def fire_triggers() -> None:
        if keeper():
            await triggers.fire()

    async def stop_dead() -> None:
        if keeper():
            await schedules.stop_dead()
            await triggers.stop_dead()

    with wake.listening("journal") as news:
        turns = (
            forever(fire_due, pause=DUE_SECONDS),
            forever(fire_triggers, pause=NEWS_SECONDS, news=news, least=LEAST_NEWS_SECONDS),
            forever(stop_dead, pause=DEAD_SECONDS),
        )
        loops = [asyncio.create_task(turn, name="standing") for turn in turns]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
