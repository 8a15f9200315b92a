"""The span that a run was begun in: a child's in its parent's trace, else the caller's own."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Apply it."""
    op.execute("alter table runs add column traceparent text")
