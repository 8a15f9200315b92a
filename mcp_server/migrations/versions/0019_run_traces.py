"""Who made each attempt at a run, and when each frame of events was stored, also after frames are merged."""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"

STATEMENTS: tuple[str, ...] = (
    "alter table runs add column workers text[] not null default '{}'",
    "alter table run_events add column times text",
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
