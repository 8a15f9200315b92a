"""A run as the engine sees it, how it ends, and what its events look like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

Status: TypeAlias = Literal[
    "queued", "running", "input_required", "completed", "failed", "cancelled", "expired"
]
LIVE: tuple[Status, ...] = ("queued", "running", "input_required")
ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled", "expired"})

Event: TypeAlias = dict[str, Any]
"""One event: `type` and what belongs to it; `seq` is added when it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row; `grant` are the scopes that the run was started with.

    `origin` is the URI of what began it, `traceparent` the span that it was begun in (W3C), `conversation` the id of the one that it goes on with: of the
    live runs of one conversation only the oldest may run.

    What a caller sets: the fields up to `ttl_seconds`. What the engine sets: the rest. `epoch` is the
    lease that holds the run, None unless it is running. `workers` made the last attempts, the newest last. `updated_at`, the time of its newest event, is
    there when one run is loaded.
    """

    id: str
    tenant: str
    subject: str
    key_id: str | None
    grant: frozenset[str]
    kind: str
    input: Any
    agent: str | None = None
    definition: Any = None
    priority: int = 0
    not_before: datetime | None = None
    dedupe_key: str | None = None
    origin: str | None = None
    traceparent: str | None = None
    conversation: str | None = None
    max_retries: int = 0
    timeout_seconds: float | None = None
    expires_at: datetime | None = None
    ttl_seconds: float | None = None

    status: Status = "queued"
    epoch: int | None = None
    attempt: int = 0
    workers: Sequence[str] = ()
    retries: int = 0
    cancel_requested: bool = False
    dead_letter: bool = False
    last_seq: int = 0
    request: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    output: Any = None
    error: dict[str, str] | None = None
    usage: dict[str, Any] | None = None
    agent_version: int | None = None
    turns: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    purge_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended; `events` are its last ones, stored together with the end itself."""

    status: Literal["completed", "failed", "cancelled", "expired"]
    output: Any = None
    error: dict[str, str] | None = None
    usage: dict[str, Any] | None = None
    events: Sequence[Event] = field(default_factory=tuple)
    dead_letter: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a run's status, as the journal tells it."""

    tenant: str
    subject: str
    run: str
    status: str


class Recorder(Protocol):
    """Journals changes of status."""

    def statement(self, moved: str) -> str:
        """Return the INSERT for each row of the relation `moved`: its id, tenant, subject, new status."""
        ...

    async def __call__(self, connection: AsyncConnection, changes: Sequence[Change]) -> None:
        """Write one entry for each change, in the transaction of the change, in one round trip."""
        ...


TellEnds: TypeAlias = Callable[[Sequence[str]], Awaitable[None]]
"""Tell whoever wants to know that these runs have ended, after the transaction that ended them."""


async def nobody(runs: Sequence[str]) -> None:
    """Tell nobody."""
    del runs


def new_run_id() -> str:
    return f"run_{uuid4().hex}"


def status_event(status: str, error: Mapping[str, str] | None = None) -> Event:
    """Build the event that tells a change of status; the last event of a run is one."""
    event: Event = {"type": "status", "status": status}
    return event if error is None else event | {"error": dict(error)}
