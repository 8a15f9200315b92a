"""Chat completions that are kept, and turns of chats that go on when the client has run its own calls."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS: tuple[str, ...] = (
    """
    create table stored_chats (
        id text primary key,
        tenant text not null,
        subject text not null,
        key_id text,
        model text not null,
        metadata text not null,
        pairs text[] not null,
        messages text not null,
        completion text not null,
        created_at timestamptz not null default now()
    )
    """,
    "create index stored_chats_tenant on stored_chats (tenant, created_at, id)",
    """
    create table kept_turns (
        id text primary key,
        tenant text not null,
        subject text not null,
        key_id text,
        transcript text not null,
        calls text[] not null,
        expires_at timestamptz not null
    )
    """,
    "create index kept_turns_tenant on kept_turns (tenant)",
    "create index kept_turns_expiry on kept_turns (expires_at)",
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
