"""Which agents are shown as tools and as prompts."""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"

STATEMENTS: tuple[str, ...] = (
    """
    alter table agents
        add column as_tool boolean not null default false,
        add column as_prompt boolean not null default false
    """,
    "create index agents_shown on agents (tenant, name) where as_tool or as_prompt",
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
