"""A run as the engine sees it, and the text that may be stored of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias, cast
from uuid import uuid4

Status: TypeAlias = Literal[
    "queued", "running", "input_required", "completed", "failed", "cancelled", "expired"
]
LIVE: tuple[Status, ...] = ("queued", "running", "input_required")
ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled", "expired"})

Event: TypeAlias = dict[str, Any]
"""One event: `type` and what belongs to it; `seq` is added when it is read."""

MAX_TEXT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row; `grant` are the scopes that the run was started with.

    What a caller sets: the fields up to `ttl_seconds`. What the engine sets: the rest. `epoch` is the
    lease that holds the run, None unless it is running.
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
    max_retries: int = 0
    timeout_seconds: float | None = None
    expires_at: datetime | None = None
    ttl_seconds: float | None = None

    status: Status = "queued"
    epoch: int | None = None
    attempt: int = 0
    retries: int = 0
    dead_letter: bool = False
    last_seq: int = 0
    request: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    output: Any = None
    error: dict[str, str] | None = None
    usage: dict[str, Any] | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    purge_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended; `events` are its last ones, stored together with the end itself."""

    status: Literal["completed", "failed", "cancelled", "expired"]
    output: Any = None
    error: dict[str, str] | None = None
    usage: dict[str, Any] | None = None
    events: Sequence[Event] = field(default_factory=tuple)
    dead_letter: bool = False


def new_run_id() -> str:
    return f"run_{uuid4().hex}"


def status_event(status: str, error: Mapping[str, str] | None = None) -> Event:
    """Build the event that tells a change of status; the last event of a run is one."""
    event: Event = {"type": "status", "status": status}
    return event if error is None else event | {"error": dict(error)}


def clean(value: Any) -> Any:
    """Give a copy that every store and every client can hold: JSON without NUL, lone surrogates or NaN.

    A text over a million characters is cut, and says so.
    """
    if isinstance(value, str):
        cut = value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}[cut: {len(value)} in all]"
        return cut.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {clean(str(name)): clean(item) for name, item in items}
    if isinstance(value, Sequence):
        return [clean(item) for item in cast("Sequence[object]", value)]
    return clean(str(value))
