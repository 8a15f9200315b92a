"""Tells of clients that leave, without a task that waits for it beside each request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, MutableMapping
from contextlib import contextmanager
from typing import Any

from starlette.types import Receive

_LEAVING = "isthmus.leaving"

Told = Callable[[], object]


class Leaving:
    """The end of one connection, for those whose requests came over it; `ready` lets the end be noticed."""

    __slots__ = ("_left", "_ready", "_watchers")

    def __init__(self, ready: Callable[[], None]) -> None:
        self._ready = ready
        self._left = False
        self._watchers: set[Told] = set()

    @contextmanager
    def watched(self, told: Told) -> Generator[None]:
        """Call `told` if the client leaves while the block runs, or has left already."""
        if self._left:
            told()
        self._watchers.add(told)
        self._ready()
        try:
            yield
        finally:
            self._watchers.discard(told)

    def leave(self) -> None:
        """Tell everybody: the connection is lost."""
        self._left = True
        for told in list(self._watchers):
            told()


def offer(leaving: Leaving, scope: Any) -> None:
    """Let the application that serves a request find what its server knows of the connection."""
    scope[_LEAVING] = leaving


@contextmanager
def told_of_leaving(
    scope: MutableMapping[str, Any], receive: Receive, told: Told
) -> Generator[None]:
    """Call `told` when the client of a request leaves while the block runs.

    The request's body must have been read: what comes after it can only be the disconnect. Under a
    server that is not ours a task waits for that.
    """
    leaving: Leaving | None = scope.get(_LEAVING)
    if leaving is not None:
        with leaving.watched(told):
            yield
        return
    watcher = asyncio.create_task(_watch(receive, told))
    try:
        yield
    finally:
        watcher.cancel()


async def _watch(receive: Receive, told: Told) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    told()
