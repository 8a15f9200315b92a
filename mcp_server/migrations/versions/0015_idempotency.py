"""What requests with an idempotency key answered."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0013"

STATEMENTS: tuple[str, ...] = (
    """
    create table idempotent_answers (
        tenant text not null,
        caller text not null,
        key text not null,
        fingerprint text not null,
        claim text not null,
        claimed_until timestamptz not null,
        answer text,
        expires_at timestamptz not null,
        primary key (tenant, caller, key)
    )
    """,
    "create index idempotent_answers_expiry on idempotent_answers (expires_at)",
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
