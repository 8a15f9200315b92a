"""What the loop needs (a toolbox, limits) and what it tells (its events)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

Stopped: TypeAlias = Literal[
    "turns",
    "seconds",
    "tool_calls",
    "output",
    "invalid_calls",
    "repeated_calls",
    "tokens",
    "cost",
    "output_invalid",
]


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What a tool gave, as text for the model; an error's text begins with `CODE: `.

    `usage` is what models used for it, where a tool asks some of its own.
    """

    text: str
    is_error: bool = False
    usage: dict[str, Any] | None = None


class Toolbox(Protocol):
    """The tools that the server runs for the model, already narrowed to what the caller may use."""

    async def specs(self) -> list[dict[str, Any]]:
        """Return OpenAI tool objects: `{"type": "function", "function": {name, description, parameters}}`."""
        ...

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        """Run one tool; `key` is its idempotency key.

        A failed tool must be an outcome or an `AppError`: both become text for the model.
        `Unauthenticated` ends the loop, since no later call could succeed.
        """
        ...

    def repeatable(self, name: str) -> bool:
        """Tell whether a call that is made twice with one key takes effect once."""
        ...


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """Where a loop ends at the latest."""

    turns: int = 16
    """How often the model is asked."""
    seconds: float = 600.0
    tool_calls: int = 64
    """How many calls run on the server."""
    output_chars: int = 1_000_000
    """How much text and arguments the model may write, all turns together."""
    result_chars: int = 100_000
    """How much of one tool's result the model sees; the rest is cut, and it is told so."""
    invalid_turns: int = 3
    """How many turns in a row may hold nothing but unknown names and malformed arguments."""
    same_failures: int = 4
    """In how many turns the very same call may fail before it is given up."""
    at_once: int = 8
    """How many calls of one turn run at the same time."""
    tokens: int | None = None
    """How many tokens the model may read and write, all turns together, as it reports them."""
    cost: float | None = None
    """In US dollars; counted where the price of the model is known."""
    context_tokens: int | None = None
    """After a turn that read and wrote so many, the conversation is compacted before the next."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of text. `field` is the message field it belongs to, mostly `content`.

    `logprobs` are OpenAI's objects for its tokens, told only by item and where the model gives them.
    """

    text: str
    turn: int
    field: str = "content"
    logprobs: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a call as the model writes it, told only by item; `name` may be empty at first."""

    call_id: str
    name: str
    arguments: str
    turn: int


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A call to a tool of the server; `arguments` is the JSON text that the model wrote.

    `number` counts the calls of the loop, all turns together, from 1.
    """

    call_id: str
    name: str
    arguments: str
    turn: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """The end of that call; `text` is what the model sees of the result, without advice on an error."""

    call_id: str
    name: str
    text: str
    is_error: bool
    turn: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """The model's turn is over; `usage` is this turn's own, empty if the model reports none.

    `model` is the one that answered, None if it does not say.
    """

    turn: int
    finish_reason: str
    usage: dict[str, Any]
    model: str | None = None


@dataclass(frozen=True, slots=True)
class TurnIncomplete:
    """What was told of a turn breaks off: an interruption cut it, and it begins anew."""

    turn: int


@dataclass(frozen=True, slots=True)
class ContextCompacted:
    """Before turn `turn` the conversation became shorter, see `compaction`, for the `number`th time.

    `messages` of it are a `summary` now, which took `usage`; None if only long results were cut.
    """

    turn: int
    number: int
    messages: int
    summary: str | None
    usage: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event: one assistant message for the whole loop.

    `message` is OpenAI's: its text is exactly what the TextDeltas said, its `tool_calls` are
    `client_calls`. `finish_reason` is `stop`, `tool_calls`, `content_filter` or `length`; `stopped`
    names the limit of ours that ended the loop, if one did. `usage` is the sum of the turns.
    `transcript` holds what the loop added to the conversation: each turn's own message with all its
    calls, and the results. A turn that called tools of both sides needs it to go on later.
    """

    message: dict[str, Any]
    finish_reason: str
    usage: dict[str, Any]
    client_calls: list[dict[str, Any]]
    stopped: Stopped | None = None
    transcript: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


LoopEvent: TypeAlias = (
    TextDelta
    | CallDelta
    | ToolStarted
    | ToolFinished
    | TurnFinished
    | TurnIncomplete
    | ContextCompacted
    | Finished
)
