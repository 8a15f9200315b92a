"""Files that are uploaded in parts, in any order, and files that expire."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"

STATEMENTS: tuple[str, ...] = (
    # A row stays for a while when it has ended, so that a request that is sent again is understood.
    """
    create table file_uploads (
        id text primary key,
        tenant text not null,
        -- The id that the file will have.
        file text not null,
        filename text not null,
        purpose text not null,
        content_type text not null,
        bytes bigint not null check (bytes >= 0),
        lifetime_seconds int,
        status text not null default 'pending' check (status in ('pending', 'completed', 'cancelled')),
        -- Of which parts the file was made.
        part_ids text[],
        created_at timestamptz not null default now(),
        expires_at timestamptz not null
    )
    """,
    "create index file_uploads_tenant on file_uploads (tenant)",
    "create index file_uploads_expiry on file_uploads (expires_at)",
    """
    create table file_upload_parts (
        id text primary key,
        upload text not null references file_uploads (id),
        size bigint not null,
        sha256 text not null,
        md5 text not null,
        blob text not null,
        created_at timestamptz not null default now()
    )
    """,
    "create index file_upload_parts_upload on file_upload_parts (upload)",
    "create index file_upload_parts_blob on file_upload_parts (blob)",
    "alter function blob_is_named(text) rename to blob_is_named_by_unit",
    """
    create function blob_is_named(wanted text) returns boolean language sql stable as $$
        select blob_is_named_by_unit(wanted)
            or exists (select from file_upload_parts where blob = wanted)
    $$
    """,
    "alter table objects add column expires_at timestamptz",
    "create index objects_expiry on objects (expires_at) where expires_at is not null",
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
