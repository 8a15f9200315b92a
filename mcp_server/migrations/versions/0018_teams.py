"""Runs that share a conversation take turns, and runs that wait for what another one asks."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"

LIVE = "status in ('queued', 'running', 'input_required')"

STATEMENTS: tuple[str, ...] = (
    # The live runs of one conversation are in the order of their turns; only the first may run.
    """
    alter table runs
        add column conversation text,
        add column turn bigint,
        add column awaits text,
        add constraint runs_turn check ((conversation is null) = (turn is null))
    """,
    """
    create unique index runs_turns on runs (tenant, conversation, turn)
    where conversation is not null and """
    + LIVE,
    """
    create index runs_awaiting on runs (awaits)
    where awaits is not null and status = 'input_required'
    """,
    # A run's children are listed as long as they are kept, and looked for when it ends.
    "create index runs_begun_by on runs (tenant, origin, created_at, id) where origin is not null",
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
