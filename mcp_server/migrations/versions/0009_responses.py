"""Responses: what was asked and answered, for 30 days, so that the next request can go on from there."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"

STATEMENTS: tuple[str, ...] = (
    """
    create table responses (
        id text primary key,
        tenant text not null,
        subject text not null,
        key_id text,
        model text not null,
        previous text,
        conversation text,
        input text not null,
        response text not null,
        hidden text not null,
        item_ids text[] not null,
        created_at timestamptz not null default now(),
        expires_at timestamptz not null
    )
    """,
    "create index responses_tenant on responses (tenant, created_at)",
    # A request may refer to an item alone, without its response.
    "create index responses_items on responses using gin (item_ids)",
    "create index responses_expiry on responses (expires_at)",
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
