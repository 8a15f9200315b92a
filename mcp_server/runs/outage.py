"""Do a step again while the control database is away for a moment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError, SQLAlchemyError

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Below the time after which a silent worker's runs are taken away.
PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 0.2
_DEFECTS = (DataError, IntegrityError, ProgrammingError)
OUTAGE = (SQLAlchemyError, OSError)


async def through_outage(step: Callable[[], Awaitable[T]]) -> T:
    """Return the result of `step`, which must be safe to repeat.

    Raises:
        SQLAlchemyError, OSError: the database refused the step, or was away for 20 seconds.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + PATIENCE_SECONDS
    while True:
        try:
            return await step()
        except OUTAGE as error:
            if isinstance(error, _DEFECTS) or clock() > until:
                raise
            logger.warning("runs: a step waits for the database (%s)", error)
        await asyncio.sleep(_PAUSE_SECONDS)
