"""How a run is shown: the same shape at every door."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from mcp_server.runs.record import Run
from mcp_server.timestamps import iso_or_none


class RunError(TypedDict):
    """Why a run failed: one of the contract's error codes (or `internal`), and the reason."""

    code: str
    message: str


class RunResult(TypedDict):
    """What became of a run; `output` is the agent's text, also what there is of it after a failure."""

    run: str
    status: str
    output: str | None
    error: RunError | None


class RunItem(RunResult):
    """One run; times are ISO 8601 in UTC, `last_event` is the number of its newest event."""

    agent: str | None
    agent_version: int | None
    created_at: str | None
    started_at: str | None
    ended_at: str | None
    usage: dict[str, Any] | None
    last_event: int


class RunEvents(TypedDict):
    items: list[dict[str, Any]]
    next_after: int


def run_item(run: Run, last_event: int) -> RunItem:
    """Show one row."""
    definition: dict[str, Any] = run.definition or {}
    error = run.error
    return RunItem(
        run=run.id,
        status=run.status,
        output=run.output,
        error=None if error is None else RunError(code=error["code"], message=error["message"]),
        agent=run.agent,
        agent_version=definition.get("version"),
        created_at=iso_or_none(run.created_at),
        started_at=iso_or_none(run.started_at),
        ended_at=iso_or_none(run.ended_at),
        usage=run.usage,
        last_event=last_event,
    )
