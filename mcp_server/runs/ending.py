"""How an attempt at a run ends, by what its work returned or raised."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mcp_server.errors import AppError, LeaseLost, LimitExceeded
from mcp_server.runs.intervals import Timing
from mcp_server.runs.record import Outcome, Run

logger = logging.getLogger(__name__)

FAILED = Outcome(
    status="failed",
    error={
        "code": "internal",
        "message": "the run failed unexpectedly; the server's log says why",
    },
)


@dataclass(frozen=True, slots=True)
class Retry:
    """The run goes back to the queue for `delay_seconds`."""

    delay_seconds: float
    error: dict[str, str]


Ending: TypeAlias = Outcome | Retry | Literal["lost"]


def ending_of(run: Run, work: asyncio.Task[Outcome], timing: Timing) -> Ending:
    """Read a work that is done: its outcome, a failure, another try, or a lease that is gone."""
    error = None if work.cancelled() else work.exception()
    if error is None:
        if not work.cancelled():
            return work.result()
        logger.error("run %s: its work cancelled itself", run.id)
        return FAILED
    cause = _cause(error)
    if isinstance(cause, LeaseLost):
        return "lost"
    if not isinstance(cause, AppError):
        logger.error("run %s failed", run.id, exc_info=error)
        return FAILED
    told = {"code": cause.code, "message": cause.message}
    if cause.retryable and run.retries < run.max_retries:
        asked = cause.retry_after if isinstance(cause, LimitExceeded) else None
        return Retry(timing.retry_delay(run.retries, asked or 0.0), told)
    used_up = cause.retryable and run.max_retries > 0
    return Outcome(status="failed", error=told, dead_letter=used_up)


def timed_out(run: Run) -> Outcome:
    """Give the outcome of a run whose attempt took longer than it may."""
    message = f"the run took longer than the {run.timeout_seconds:g} seconds that it may"
    return Outcome(status="failed", error={"code": "timeout", "message": message})


def _cause(error: BaseException) -> BaseException:
    """Look into a task group's error that holds one only."""
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())
    return _cause(inner[0]) if len(inner) == 1 else error
