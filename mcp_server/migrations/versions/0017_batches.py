"""Batches of the OpenAI face: what each was asked, how far it is, and its lines until they are in files."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"

STATEMENTS: tuple[str, ...] = (
    """
    create table batches (
        id text primary key,
        tenant text not null,
        subject text not null,
        key_id text,
        run text not null,
        endpoint text not null,
        input_file text not null,
        -- Drawn before there are such files: whoever writes them again writes the same ones.
        output_file text not null,
        error_file text not null,
        output_seconds int,
        metadata text,
        status text not null default 'validating',
        total int not null default 0,
        completed int not null default 0,
        failed int not null default 0,
        errors text,
        created_at timestamptz not null default now(),
        in_progress_at timestamptz,
        finalizing_at timestamptz,
        cancelling_at timestamptz,
        ended_at timestamptz,
        due_at timestamptz not null default now() + interval '24 hours',
        expires_at timestamptz not null default now() + interval '30 days'
    )
    """,
    "create index batches_page on batches (tenant, created_at, id)",
    "create index batches_expiry on batches (expires_at)",
    """
    create table batch_lines (
        tenant text not null,
        batch text not null references batches (id) on delete cascade,
        line int not null,
        custom_id text collate "C" not null,
        -- Where the line is in the input file.
        first_byte bigint not null,
        end_byte bigint not null,
        state text not null default 'waiting' check (state in ('waiting', 'completed', 'failed')),
        answer_id text,
        status_code int,
        request_id text,
        body text,
        error text,
        primary key (batch, line),
        unique (batch, custom_id)
    )
    """,
    "create index batch_lines_waiting on batch_lines (batch, line) where state = 'waiting'",
    "create index batch_lines_tenant on batch_lines (tenant)",
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
