"""What runs of agents used up, in their rows, and an index for the figures of an agent."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"

STATEMENTS: tuple[str, ...] = (
    """
    alter table runs
        add column agent_version bigint,
        add column turns int not null default 0,
        add column tool_calls int not null default 0,
        add column tool_errors int not null default 0,
        add column prompt_tokens bigint not null default 0,
        add column completion_tokens bigint not null default 0,
        add column cost double precision not null default 0
    """,
    # Of earlier runs what they kept of it.
    """
    update runs set agent_version = (definition::json ->> 'version')::bigint,
        prompt_tokens = coalesce((usage::json ->> 'prompt_tokens')::bigint, 0),
        completion_tokens = coalesce((usage::json ->> 'completion_tokens')::bigint, 0)
    where agent is not null
    """,
    "create index runs_of_agent on runs (tenant, agent, created_at) where agent is not null",
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
