"""What a run wrote is found by the run: to undo it, and to show its changes, scanned the journal's days."""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Apply it."""
    op.execute("create index journal_run on journal (tenant, run) where run is not null")
