"""The identity of one step of a run as it travels with a call: its idempotency key, and the epoch that fences it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCED = re.compile(
    r"(?P<key>(?P<run>run_[0-9a-f]{32})/[^@]{1,200})@(?P<epoch>[0-9]{1,19})\.(?P<attempt>[0-9]{1,9})"
)


@dataclass(frozen=True, slots=True)
class StepKey:
    """`key` is the same each time the step is tried; `epoch` is the lease under which it is tried now.

    `attempt` counts how often the run was claimed. The leases of a run need not grow from one holder to
    the next, its attempts do: by them a store without the runs' rows knows the newer holder.

    As text, which is how it reaches a tool call through any door: `RUN/STEP@EPOCH.ATTEMPT`.
    """

    run: str
    key: str
    epoch: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.key}@{self.epoch}.{self.attempt}"


def parse_key(text: str) -> StepKey | None:
    """Read the key of a run's step; None for any other idempotency key, which no lease fences."""
    match = _FENCED.fullmatch(text)
    if match is None:
        return None
    return StepKey(match["run"], match["key"], int(match["epoch"]), int(match["attempt"]))


def is_step(key: str | None) -> bool:
    """Tell whether an idempotency key is that of a run's step."""
    return key is not None and parse_key(key) is not None
