"""Conversations and their items."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

STATEMENTS: tuple[str, ...] = (
    """
    create table conversations (
        id text primary key,
        tenant text not null,
        subject text not null,
        metadata text not null,
        next_place bigint not null default 1,
        held_by text,
        held_until timestamptz,
        created_at timestamptz not null default now()
    )
    """,
    "create index conversations_tenant on conversations (tenant)",
    """
    create table conversation_items (
        conversation text not null references conversations (id) on delete cascade,
        place bigint not null,
        id text not null,
        item text not null,
        primary key (conversation, place),
        unique (conversation, id)
    )
    """,
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
