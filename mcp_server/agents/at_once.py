"""Do several things at the same time, up to a bound, and hear of each when it begins and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from anyio import CancelScope

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Ended(Generic[R]):
    """What came of one thing."""

    result: R


async def at_once(
    things: Iterable[T],
    do: Callable[[T], Awaitable[R]],
    *,
    most: int,
    may_begin: Callable[[T], bool],
) -> AsyncGenerator[tuple[T, Ended[R] | None], None]:
    """Do at most `most` things at a time: yields each before it begins, in order, and again when it ended.

    A thing that may not begin when its turn has come is left out. An error, closing the generator or
    cancelling its task ends those that run; it returns when they have ended.
    """
    waiting = iter(things)
    running: dict[asyncio.Task[R], T] = {}
    exhausted = False
    try:
        while True:
            while not exhausted and len(running) < most:
                thing = next(waiting, _NOTHING)
                if isinstance(thing, _Nothing):
                    exhausted = True
                elif may_begin(thing):
                    yield thing, None
                    running[asyncio.ensure_future(_done(do, thing))] = thing
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in [each for each in running if each in done]:
                yield running.pop(task), Ended(task.result())
    finally:
        for task in running:
            task.cancel()
        if running:
            with CancelScope(shield=True):
                await asyncio.wait(running)


async def _done(do: Callable[[T], Awaitable[R]], thing: T) -> R:
    return await do(thing)


class _Nothing:
    """Stands for the end."""


_NOTHING = _Nothing()
