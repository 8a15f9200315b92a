"""Objects: metadata, tags, earlier versions, links and resumable uploads."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS: tuple[str, ...] = (
    """
    alter table objects
        add column metadata jsonb not null default '{}',
        add column tags jsonb not null default '{}',
        add column updated_at timestamptz not null default now()
    """,
    "update objects set updated_at = created_at",
    # A copy shares the blob of its source: blobs never change.
    "alter table objects drop constraint objects_blob_key",
    "create index objects_blob on objects (blob)",
    """
    create table object_versions (
        tenant text not null,
        bucket text not null,
        key text collate "C" not null,
        version bigint not null,
        id text not null,
        size bigint not null,
        etag text not null,
        sha256 text not null,
        content_type text not null,
        blob text not null,
        metadata jsonb not null,
        tags jsonb not null,
        created_at timestamptz not null,
        updated_at timestamptz not null,
        replaced_at timestamptz not null default now(),
        primary key (tenant, bucket, key, version)
    )
    """,
    "create index object_versions_blob on object_versions (blob)",
    "create index object_versions_replaced on object_versions (replaced_at)",
    # Blobs that somebody needs who has no manifest row for them yet, such as a unit of work.
    """
    create table pinned_blobs (
        blob text not null,
        holder text not null,
        since timestamptz not null default now(),
        primary key (blob, holder)
    )
    """,
    "create index pinned_blobs_holder on pinned_blobs (holder)",
    """
    create table object_links (
        hash bytea primary key,
        tenant text not null,
        subject text not null,
        key_id text,
        scopes text[] not null,
        bucket text not null,
        key text collate "C" not null,
        method text not null,
        content_type text,
        if_match text,
        if_none_match text,
        max_bytes bigint,
        created_at timestamptz not null default now(),
        expires_at timestamptz not null
    )
    """,
    "create index object_links_key on object_links (tenant, bucket, key)",
    "create index object_links_expiry on object_links (expires_at)",
    """
    create table object_uploads (
        id text primary key,
        tenant text not null,
        subject text not null,
        bucket text not null,
        key text collate "C" not null,
        content_type text not null,
        if_match text,
        if_none_match text,
        metadata jsonb not null,
        tags jsonb not null,
        header text not null,
        length bigint not null,
        received bigint not null default 0,
        completed jsonb,
        created_at timestamptz not null default now(),
        expires_at timestamptz not null
    )
    """,
    "create index object_uploads_tenant on object_uploads (tenant)",
    "create index object_uploads_expiry on object_uploads (expires_at)",
    """
    create table object_upload_parts (
        upload text not null references object_uploads (id),
        start bigint not null,
        size bigint not null,
        blob text not null,
        primary key (upload, start)
    )
    """,
    "create index object_upload_parts_blob on object_upload_parts (blob)",
    # Whatever may need a blob has a row in one of these tables: the collector takes none that is named.
    """
    create function blob_is_named(wanted text) returns boolean language sql stable as $$
        select exists (select from objects where blob = wanted)
            or exists (select from object_versions where blob = wanted)
            or exists (select from object_upload_parts where blob = wanted)
            or exists (select from pinned_blobs where blob = wanted)
    $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
