"""What each key asked of each model, by day."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"

STATEMENTS: tuple[str, ...] = (
    """
    create table model_usage (
        tenant text not null,
        day date not null,
        -- '' is the local owner, who has no key.
        key_id text not null,
        model text not null,
        requests bigint not null,
        failed bigint not null,
        cached bigint not null,
        estimated bigint not null,
        prompt_tokens bigint not null,
        completion_tokens bigint not null,
        primary key (tenant, day, key_id, model)
    )
    """,
    "create index model_usage_day on model_usage (day)",
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
