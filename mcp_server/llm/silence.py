"""Ends a stream that has fallen silent, with one timer however many reads it has."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp


class Silence:
    """Reads an answer, and looks now and then how long a read has lasted: aiohttp would set a timer for each.

    A client that takes its time with what was read is not the silence of the model.
    """

    __slots__ = ("_content", "_loop", "_response", "_seconds", "_since", "_timer")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self._seconds = math.inf
        self._since = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Silence:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def read(self) -> bytes:
        """Give what came, nothing at the end.

        Raises:
            aiohttp.SocketTimeoutError: nothing came for too long.
        """
        self._since = self._loop.time()
        received = await self._content.readany()
        self._since = math.inf
        return received

    def begin(self, seconds: float) -> None:
        """Let each read last so long from now on, whatever the request allowed for its beginning."""
        connection = self._response.connection
        if connection is None or connection.protocol is None:
            return  # all of it is here already
        connection.protocol.read_timeout = None
        connection.protocol.start_timeout()  # without a time it stops
        self._seconds = seconds
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        import aiohttp

        waited = max(self._loop.time() - self._since, 0.0)
        if waited < self._seconds:
            self._timer = self._loop.call_later(self._seconds - waited, self._look)
        else:
            self._content.set_exception(aiohttp.SocketTimeoutError("nothing came for too long"))
