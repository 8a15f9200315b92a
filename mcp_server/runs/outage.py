"""Do a step again while the control database is away, and say so once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mcp_server.storage.sql.control import DISCONNECTED

T = TypeVar("T")
logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2
OUTAGE = (SQLAlchemyError, *DISCONNECTED)
# Classes of SQLSTATE after which the same statement may succeed: a lost connection, an idle
# transaction cut off, a deadlock, too few resources, a lock not had, a stop or a start, the disk.
# https://www.postgresql.org/docs/18/errcodes-appendix.html
_PASSING = frozenset({"08", "25", "40", "53", "55", "57", "58"})


class _Outage:
    """Hundreds of runs may wait for one database: its going and its coming are one line each."""

    def __init__(self) -> None:
        self._waiting = 0

    def begins(self, error: BaseException) -> None:
        self._waiting += 1
        if self._waiting == 1:
            logger.warning("runs wait for the control database (%s)", error)

    def ends(self, *, answered: bool) -> None:
        self._waiting -= 1
        if self._waiting == 0 and answered:
            logger.warning("runs go on: the control database answers again")


_outage = _Outage()


def passes(error: BaseException) -> bool:
    """Tell a database that is away from a statement that it will always refuse: a defect of ours."""
    if isinstance(error, (*DISCONNECTED, PoolTimeout)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state: str = getattr(error.orig, "sqlstate", None) or ""
    return error.connection_invalidated or state[:2] in _PASSING


async def through_outage(
    step: Callable[[], Awaitable[T]], *, patience_seconds: float | None = None
) -> T:
    """Return the result of `step`, which must be safe to repeat: its answer may have got lost.

    Raises:
        SQLAlchemyError, OSError: the database refused the step, or was away for longer than the
            patience; without one it is asked for ever.
    """
    clock = asyncio.get_running_loop().time
    until = None if patience_seconds is None else clock() + patience_seconds
    away = answered = False
    try:
        while True:
            try:
                result = await step()
                answered = True
                return result
            except OUTAGE as error:
                if not passes(error) or (until is not None and clock() > until):
                    raise
                if not away:
                    away = True
                    _outage.begins(error)
            await asyncio.sleep(_PAUSE_SECONDS)
    finally:
        if away:
            _outage.ends(answered=answered)
