"""Every version of an agent's definition, agents that rest, and what schedules and triggers started last."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"

STATEMENTS: tuple[str, ...] = (
    "alter table agents add column paused_at timestamptz",
    """
    create table agent_versions (
        tenant text not null,
        name text collate "C" not null,
        version bigint not null,
        definition text not null,
        -- Who saved it.
        subject text not null,
        saved_at timestamptz not null default now(),
        primary key (tenant, name, version),
        foreign key (tenant, name) references agents on delete cascade
    )
    """,
    "alter table schedules add column last_run text",
    "alter table triggers add column last_run text",
    """
    insert into agent_versions (tenant, name, version, definition, subject, saved_at)
    select tenant, name, version, definition, '', updated_at from agents
    """,
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
