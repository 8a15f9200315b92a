"""A worker's one lease: taken, renewed on a connection of its own, and known to be lost in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mcp_server.runs.intervals import Timing
from mcp_server.runs.leases import Leases, Renewal
from mcp_server.runs.outage import OUTAGE, passes

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.2


class Heartbeat:
    """`epoch` is the lease that this worker holds, None while it has none; `changed` is told of it.

    `keeper` tells whether this worker does what one must do for all: it has the oldest living lease,
    or does not know yet. For some seconds it may be nobody, or two, which is harmless.

    What the database says counts; this process's own clock, which never jumps, only tells when to
    ask it again.
    """

    def __init__(
        self,
        leases: Leases,
        worker: str,
        slots: int,
        timing: Timing,
        changed: Callable[[int | None], None],
    ) -> None:
        self.epoch: int | None = None
        self.keeper = True
        self._leases = leases
        self._worker, self._slots = worker, slots
        self._timing = timing
        self._changed = changed
        self._clock = asyncio.get_running_loop().time
        self._sure_until = 0.0
        self._steady_since: float | None = None

    def sure(self) -> bool:
        """Tell whether the lease was renewed recently enough to begin something new under it."""
        return self.epoch is not None and self._clock() < self._sure_until

    def steady(self) -> bool:
        """Tell whether the lease was renewed without a break for its whole length.

        Only then may this worker take leases away: after the database was gone, every living worker
        has had the time to renew its own.
        """
        since = self._steady_since
        return self.sure() and since is not None and self._clock() - since >= self._timing.lease

    async def keep(self) -> None:
        """Hold a lease for ever."""
        failed = False
        while True:
            try:
                async with asyncio.timeout(self._timing.lease / 2):
                    await self._beat()
                failed = False
            except OUTAGE as error:
                self._steady_since = None
                if not failed:
                    detail = None if passes(error) else error
                    logger.warning("a worker cannot renew its lease (%s)", error, exc_info=detail)
                failed = True
            except Exception:  # whatever it was: without the next beat, the worker is dead for ever
                self._steady_since = None
                logger.exception("a worker cannot renew its lease")
                failed = True
            again = failed or self.epoch is None
            await asyncio.sleep(_AGAIN_SECONDS if again else self._timing.heartbeat)

    async def _beat(self) -> None:
        asked, renewal = self._clock(), Renewal(0.0, keeper=True)
        if self.epoch is None:
            self.epoch = await self._leases.take(self._worker, self._slots)
            self._sure_until = asked + self._timing.lease
            self._changed(self.epoch)
        elif (renewal := await self._leases.renew(self.epoch)) is None:
            logger.warning("a worker was silent for too long: others take over what it held")
            self.epoch = self._steady_since = None
            self._changed(None)
            return
        self.keeper = renewal.keeper
        if self._steady_since is None or asked > self._sure_until or renewal.left < 0:
            self._steady_since = asked
        self._sure_until = asked + self._timing.lease
