"""The CPU priority of a statement that takes long, where the database shares this machine with everything else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

# Most statements are done by then. What takes longer gets what the short ones of others leave, which is
# all of it if there are none.
AFTER_SECONDS = 0.05
# A fifth of the usual share: enough to release soon whatever lock others may wait for.
LOWERED = 7


class Lowered:
    """What became of a backend's priority: `kept` says that it could not be put back."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._was: int | None = None
        self.kept = False

    def lower(self) -> None:
        with suppress(OSError):  # it has just ended, or this system has none of it
            was = os.getpriority(os.PRIO_PROCESS, self._pid)
            if was < LOWERED and _is_backend(self._pid):
                os.setpriority(os.PRIO_PROCESS, self._pid, LOWERED)
                self._was = was
                _set_group(self._pid, LOWERED)

    def restore(self) -> None:
        if self._was is None:
            return
        try:
            os.setpriority(os.PRIO_PROCESS, self._pid, self._was)
        except OSError:  # only root may
            self.kept = True
        else:
            _set_group(self._pid, self._was)


@contextmanager
def lowering(pid: int) -> Generator[Lowered]:
    """Lower the backend's priority if the body takes long, and put it back after it."""
    lowered = Lowered(pid)
    timer = asyncio.get_running_loop().call_later(AFTER_SECONDS, lowered.lower)
    try:
        yield lowered
    finally:
        timer.cancel()
        lowered.restore()


def is_possible() -> bool:
    """Tell whether this system has priorities of processes."""
    return hasattr(os, "setpriority")


def _is_backend(pid: int) -> bool:
    """Tell whether the number is not another process's by now, as far as the system says."""
    name = Path(f"/proc/{pid}/comm")
    return not name.parent.parent.joinpath("self").exists() or name.read_text().startswith(
        "postgres"
    )


def _set_group(pid: int, nice: int) -> None:
    """Say it of the backend's session too, since Linux may weigh sessions before processes."""
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))
