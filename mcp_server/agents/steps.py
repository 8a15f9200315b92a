"""What lets a loop be interrupted and go on: its steps, what was told of them, and how their calls may be tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

UnsurePolicy: TypeAlias = Literal["fail", "retry"]

APPROVAL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "reason": {"type": "string", "description": "what the model is told if it is refused"},
    },
    "required": ["approved"],
}
"""The JSON schema of the answer to a request for approval."""


class Steps(Protocol):
    """The steps of one run, by name: what earlier attempts finished is done for good.

    A loop's steps are `turn/N`, one answer of the model; `call/N`, the Nth call to a tool of the
    server, all turns together; `approve/N`, a person's answer about that call; `ask/N`, the answer to
    the question that it is; and `compact/N`, the Nth summary of what was said.
    """

    def finished(self, step: str, /) -> bool:
        """Tell whether a result is stored."""
        ...

    def result(self, step: str, /) -> Any:
        """Return the stored result of a finished step."""
        ...

    def key(self, step: str, /) -> str:
        """Return the idempotency key of a step, the same at every attempt but for its fence."""
        ...

    async def begin(
        self, step: str, /, *, repeatable: bool = ..., retry_unsure: bool = ...
    ) -> None:
        """Make sure that the step may begin.

        One that is not repeatable is marked as begun, which must wait while the store is away and must
        not return once the run is lost.

        Raises:
            AppError: it is not repeatable, an earlier attempt began it, and not `retry_unsure`.
        """
        ...

    async def store(self, step: str, result: Any, /) -> Any:
        """Store a step's result (JSON) and with it, in one transaction, every event told before.

        Returns the result as a later attempt will read it: cleaned, and cut if it is very long.
        """
        ...

    async def ask(
        self,
        step: str,
        /,
        *,
        message: str,
        schema: dict[str, Any] | None = ...,
        kind: Literal["approval", "question"] = ...,
        call: Mapping[str, str] | None = ...,
        preview: Mapping[str, Any] | None = ...,
    ) -> Any:
        """Return a person's answer; while there is none it must not return: the attempt ends here.

        `call` is the call that an approval is about: its tool's `name` and `arguments`, as JSON text;
        `preview` is what it would do, see `previews`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """What earlier attempts told of a run. Each call is told once, though it be made again."""

    open_turns: frozenset[int] = frozenset()
    """Turns of which something was told since the last `turn_incomplete`."""
    calls_started: frozenset[int] = frozenset()
    """Numbers of calls, all turns together."""
    calls_finished: frozenset[int] = frozenset()
    compactions: Mapping[int, Mapping[str, Any]] = field(default_factory=dict[int, Any])
    """By their numbers, the events that told them."""


@dataclass(frozen=True, slots=True)
class CallRules:
    """How an agent's calls are made. Tools by their function names."""

    approve: frozenset[str] = frozenset()
    """Tools whose every call needs a person's approval."""
    unsure: UnsurePolicy = "fail"
    """What becomes of a call that was interrupted and that its tool cannot promise to do only once."""


NOTHING_TOLD = Told()
NO_RULES = CallRules()


def told_in(events: Iterable[Mapping[str, Any]]) -> Told:
    """Read the stored events of a run."""
    open_turns: set[int] = set()
    calls: dict[str, set[int]] = {"tool_started": set(), "tool_finished": set()}
    compactions: dict[int, Mapping[str, Any]] = {}
    for event in events:
        kind = event["type"]
        if kind in {"text", "turn_finished"}:
            open_turns.add(event["turn"])
        elif kind == "turn_incomplete":
            open_turns.discard(event["turn"])
        elif kind == "context_compacted":
            compactions[event["number"]] = event
        elif kind in calls:
            calls[kind].add(event.get("number", len(calls[kind]) + 1))
    told = (frozenset(numbers) for numbers in calls.values())
    return Told(frozenset(open_turns), *told, compactions=compactions)
