"""Takes the steps of the demo one after the other, up to the first that fails, and cleans up behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from mcp_server.commands.demo import asking, searching
from mcp_server.commands.demo.screen import Screen
from mcp_server.commands.demo.tour import CONNECTION_ERRORS, StepFailed, Tour

Step = Callable[[Tour], Awaitable[None]]


@dataclass(slots=True)
class Walk:
    """`problems` says what went wrong; it is empty if every step worked."""

    screen: Screen
    steps: Sequence[tuple[str, Step]]
    problems: list[str] = field(default_factory=list[str])
    _at: str = "Connecting"
    _stopped: bool = False

    async def take(self, tour: Tour) -> None:
        """Take the steps; on a running server, take back what they made, however it ended."""
        try:
            for number, (title, step) in enumerate(self.steps, start=1):
                self._at = f"Step {number} ({title})"
                self.screen.step(number, len(self.steps), title)
                try:
                    await step(tour)
                except (StepFailed, *CONNECTION_ERRORS) as error:
                    self._stop(str(error) or type(error).__name__)
                    return
        finally:
            if not tour.target.own:
                await self._clean_up(tour)

    def break_off(self, group: BaseExceptionGroup[BaseException]) -> None:
        """Note that the connection broke, which cancels a step from outside.

        Raises:
            BaseExceptionGroup: what is in it is no broken connection.
        """
        _, other = group.split(CONNECTION_ERRORS)
        if other is not None:
            raise other
        first = _first(group)
        if not self._stopped:
            self._stop(f"the connection broke ({type(first).__name__}: {first}).")

    def _stop(self, reason: str) -> None:
        self._stopped = True
        self.problems.insert(0, f"{self._at}: {reason}")

    async def _clean_up(self, tour: Tour) -> None:
        left = await tour.clean_up()
        if left:
            self.problems.append(f"Not cleaned up: {'; '.join(left)}")
            return
        self.screen.line()
        self.screen.note(
            f"Cleaned up: everything named demo-{tour.mark} is deleted. The agent {asking.AGENT}, its runs, "
            f"the empty store {searching.STORE} and the journal stay."
        )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception in a group that is no group itself."""
    error = group.exceptions[0]
    if not isinstance(error, BaseExceptionGroup):
        return error
    return _first(cast("BaseExceptionGroup[BaseException]", error))
