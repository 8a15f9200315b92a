"""How often a worker does what: its lease, its questions to the database, its retries, its end."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """All in seconds.

    A worker that renews its lease every `heartbeat` keeps it; one that was silent for `lease` loses
    what it holds to the others. `watch`: a cancellation, a dead key, a lost run is noticed after that
    time at the latest, also when no wake-up comes, and after `coalesce` when they come all the time.
    `batch`: runs that end within it are replaced by one claim. `halt`: how long a work that is
    cancelled may clean up before its run ends without it; `stop`: before nobody waits for it.
    """

    lease: float = 10.0
    heartbeat: float = 2.0
    claim: float = 1.0
    watch: float = 0.5
    coalesce: float = 0.1
    batch: float = 0.01
    sweep: float = 0.5
    tidy: float = 5.0
    halt: float = 0.4
    retry: float = 1.0
    longest_retry: float = 300.0
    stop: float = 3.0

    def retry_delay(self, retries: int, least: float = 0.0) -> float:
        """Return the pause before the next try: it doubles each time, and is never the same for all."""
        delay = min(self.longest_retry, self.retry * 2.0 ** min(retries, 30))
        return max(least, delay) * random.uniform(0.8, 1.2)  # noqa: S311  spreads load, keeps no secret
