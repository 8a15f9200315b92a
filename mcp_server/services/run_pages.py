"""Pages of runs: how they are filtered by status and cut."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

from mcp_server.errors import InvalidInput
from mcp_server.runs.record import Run, Status
from mcp_server.services import names

STATUSES: tuple[Status, ...] = get_args(Status)

Position = tuple[datetime, str]


def one_status(text: str) -> Status:
    """Read a status.

    Raises:
        InvalidInput: it is none.
    """
    for status in STATUSES:
        if status == text:
            return status
    raise InvalidInput(f"status: {text[:40]!r} is none of {', '.join(STATUSES)}", param="status")


def write_cursor(last: Run) -> str:
    """Return an opaque cursor that continues after a run."""
    created = "" if last.created_at is None else last.created_at.isoformat()
    return names.encode_cursor(f"{created} {last.id}")


def read_cursor(cursor: str | None) -> Position | None:
    """Return where to continue.

    Raises:
        InvalidInput: the cursor was not given out by this server.
    """
    text = names.decode_cursor(cursor)
    if text is None:
        return None
    created, _, run = text.partition(" ")
    try:
        return datetime.fromisoformat(created).astimezone(UTC), run
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"cursor: {(cursor or '')[:40]!r} is no cursor; pass next_cursor of the page before",
            param="cursor",
        ) from error
