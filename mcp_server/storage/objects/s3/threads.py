"""The threads in which a blocking client runs: as many as it has connections, and none outlives its work unseen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import anyio
from minio.error import S3Error

from mcp_server.errors import AppError, Conflict, Unavailable
from mcp_server.storage.objects.s3.client import FAILURES, NO_SERVER

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long a cancelled call waits for its thread before it lets `close` do so.
LINGER_SECONDS = 3.0
# RFC 9110 section 13.1.1, and S3's own when another write to the same name was faster.
_CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict"}
_CREDENTIALS = {
    "AccessDenied": "access is denied",
    "InvalidAccessKeyId": "its key is unknown there",
    "SignatureDoesNotMatch": "its secret is wrong",
    "NoSuchBucket": "its bucket is gone",
}


class Threads:
    """Runs blocking calls; `close` returns when every one of them has ended."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="s3")
        self._afterwards: set[asyncio.Task[None]] = set()

    def submit(self, function: Callable[..., T], *arguments: object) -> Future[T]:
        return self._pool.submit(function, *arguments)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call in a thread; a cancelled call that has begun is waited for, but not for ever.

        Raises:
            Unavailable: the server refuses or does not answer; the log says more.
        """
        return await self.result(self.submit(function, *arguments))

    async def result(
        self,
        work: Future[T],
        *,
        linger: float = LINGER_SECONDS,
        stop: Callable[[], object] | None = None,
    ) -> T:
        """Return what `submit` began; `stop` ends it when the call is cancelled, else it is waited for."""
        waiting = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if not work.cancel():
                if stop is not None:
                    with contextlib.suppress(OSError, RuntimeError, ValueError):
                        stop()
                await _settle({waiting}, linger)
                waiting.add_done_callback(_seen)
            raise
        except FAILURES as error:
            raise told(error) from error

    async def ended(self, work: Future[Any]) -> None:
        """Return when nothing runs of it any more, however it ended."""
        if not work.cancel():
            waiting = asyncio.wrap_future(work)
            await asyncio.wait({waiting})
            _seen(waiting)

    async def afterwards(self, cleaning: Coroutine[Any, Any, None]) -> None:
        """Clean up, whatever else is cancelled; what takes long goes on behind the caller's back.

        What cannot be removed now is found later: by `discard_unfinished`, or as an orphan.
        """
        task = asyncio.create_task(_quietly(cleaning))
        self._afterwards.add(task)
        task.add_done_callback(self._afterwards.discard)
        await _settle({task}, LINGER_SECONDS)

    async def close(self, interrupt: Callable[[], None]) -> None:
        """Let what cleans up come to its end, but not for ever; then `interrupt` whatever still runs."""
        await _settle(self._afterwards, LINGER_SECONDS)
        while self._afterwards:
            interrupt()
            await _settle(self._afterwards, LINGER_SECONDS)
        # What has not begun never will.
        self._pool.shutdown(wait=False, cancel_futures=True)
        ending = asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
        await _settle({ending}, LINGER_SECONDS)
        while not ending.done():
            interrupt()
            await _settle({ending}, LINGER_SECONDS)


def told(error: Exception) -> AppError:
    """Return what a client may know of an error of the library, and log the rest of it."""
    if isinstance(error, S3Error):
        if error.code in _CONFLICTS:
            return Conflict("the object there is another one by now")
        logger.warning("object store: %s: %s", error.code, error.message)
        reason = _CREDENTIALS.get(error.code or "")
        if reason is not None:
            return Unavailable(f"the object store refuses this server: {reason}")
        return Unavailable(f"the object store cannot do this now: {error.code}")
    logger.warning("object store: %s: %s", type(error).__name__, error)
    if isinstance(error, NO_SERVER):
        return Unavailable("what answers in the object store's place is none")
    return Unavailable("the object store does not answer")


async def _settle(wanted: Collection[asyncio.Future[Any]], seconds: float) -> None:
    """Wait until all is done or the time is over; a cancellation has to wait too."""
    work = list(wanted)
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    with anyio.CancelScope(shield=True):
        while any(not one.done() for one in work) and loop.time() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(work, timeout=until - loop.time())


async def _quietly(cleaning: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(Unavailable):
        await cleaning


def _seen(work: asyncio.Future[Any]) -> None:
    if not work.cancelled():
        work.exception()  # so that nothing warns of it
