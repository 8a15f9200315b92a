"""The control database: tenants, keys, journal, audit, key-value, objects, vectors, agents, runs."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    "create extension if not exists vector",
    """
    create table tenants (
        name text primary key,
        id bigint generated always as identity unique,
        created_at timestamptz not null default now()
    )
    """,
    """
    create table api_keys (
        id text primary key,
        name text not null,
        tenant text not null references tenants (name),
        subject text not null,
        scopes text[] not null,
        hash bytea not null unique,
        rate_limit text,
        created_at timestamptz not null default now(),
        expires_at timestamptz,
        revoked_at timestamptz
    )
    """,
    "create sequence journal_seq",
    """
    create table journal (
        xid xid8 not null default pg_current_xact_id(),
        seq bigint not null default nextval('journal_seq'),
        tenant text not null,
        verb text not null,
        uri text not null,
        version bigint,
        prev_version bigint,
        run text,
        step text,
        labels text[] not null default '{}',
        subject text not null,
        at timestamptz not null default now()
    ) partition by range (at)
    """,
    "create index journal_order on journal (tenant, xid, seq)",
    # A day without its partition must never refuse a write.
    "create table journal_default partition of journal default",
    """
    create table audit (
        id bigint generated always as identity primary key,
        at timestamptz not null default now(),
        tenant text not null,
        subject text not null,
        key_id text,
        verb text not null,
        uri text not null,
        outcome text not null,
        labels text[] not null default '{}',
        micros bigint not null
    )
    """,
    "create index audit_tenant on audit (tenant, id)",
    """
    create function refuse_change() returns trigger language plpgsql as
    $$ begin raise exception '% is append-only', tg_table_name; end $$
    """,
    """
    create trigger append_only before update or delete or truncate on audit
    for each statement execute function refuse_change()
    """,
    """
    create table kv (
        tenant text not null,
        namespace text not null,
        key text collate "C" not null,
        value text not null,
        version bigint not null,
        updated_at timestamptz not null default now(),
        expires_at timestamptz,
        primary key (tenant, namespace, key)
    )
    """,
    "create index kv_expiry on kv (expires_at) where expires_at is not null",
    """
    create table objects (
        id text primary key,
        tenant text not null,
        bucket text not null,
        key text collate "C" not null,
        size bigint not null,
        etag text not null,
        sha256 text not null,
        content_type text not null,
        blob text not null unique,
        version bigint not null,
        created_at timestamptz not null default now(),
        unique (tenant, bucket, key)
    )
    """,
    "create table garbage_blobs (blob text primary key, since timestamptz not null default now())",
    """
    create table vector_stores (
        id text primary key,
        tenant text not null,
        name text not null,
        embedding_model text not null,
        dimensions int not null,
        created_at timestamptz not null default now(),
        unique (tenant, name)
    )
    """,
    """
    create table documents (
        store text not null references vector_stores (id) on delete cascade,
        document text collate "C" not null,
        tenant text not null,
        metadata jsonb not null default '{}',
        sha256 text not null,
        chunks int not null,
        version bigint not null,
        created_at timestamptz not null default now(),
        primary key (store, document)
    )
    """,
    "create sequence chunk_ids",
    """
    create table chunks (
        id bigint primary key,
        store text not null,
        document text collate "C" not null,
        chunk int not null,
        tenant text not null,
        body text not null,
        start_at int not null,
        end_at int not null,
        unique (store, document, chunk),
        foreign key (store, document) references documents (store, document) on delete cascade
    )
    """,
    """
    create table chunk_vectors (
        id bigint primary key,
        store text not null,
        document text collate "C" not null,
        tenant text not null,
        tokens tsvector not null,
        length int not null,
        embedding vector not null
    )
    """,
    # An exact scan reads every vector of a store, and ranking by words every token: both stay in the
    # row up to about 1,500 dimensions. With PostgreSQL's 2 kB even the store's name would move out.
    "alter table chunk_vectors set (toast_tuple_target = 8160)",
    "create index chunk_vectors_store on chunk_vectors (store, document) include (tenant, length)",
    "create index chunk_vectors_tokens on chunk_vectors using gin (tokens)",
    """
    create table agents (
        tenant text not null,
        name text collate "C" not null,
        definition text not null,
        version bigint not null,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        primary key (tenant, name)
    )
    """,
    """
    create table runs (
        id text primary key,
        tenant text not null,
        subject text not null,
        key_id text,
        grant_scopes text[] not null,
        kind text not null,
        agent text,
        definition text,
        input text not null,
        status text not null check (status in
            ('queued', 'running', 'input_required', 'completed', 'failed', 'cancelled', 'expired')),
        output text,
        error text,
        usage text,
        cancel_requested boolean not null default false,
        worker text,
        heartbeat_at timestamptz,
        created_at timestamptz not null default now(),
        started_at timestamptz,
        ended_at timestamptz
    )
    """,
    "create index runs_tenant on runs (tenant, created_at desc)",
    "create index runs_live on runs (status) where status in ('queued', 'running')",
    """
    create table run_events (
        run text not null references runs (id) on delete cascade,
        first_seq bigint not null,
        last_seq bigint not null,
        events text not null,
        at timestamptz not null default now(),
        primary key (run, first_seq),
        check (last_seq >= first_seq)
    )
    """,
    """
    create function create_tenant(tenant text) returns void language plpgsql as $$
    declare number bigint;
    begin
        insert into tenants (name) values (tenant) on conflict do nothing returning id into number;
        if number is not null then
            execute format('create sequence %I', 'version_' || number);
        end if;
    end $$
    """,
    # One rising counter per tenant: a version is never used again, also after delete or expiry.
    """
    create function next_version(tenant text) returns bigint language sql volatile as
    $$ select nextval(('version_' || id)::regclass) from tenants where name = tenant $$
    """,
    "select create_tenant('default')",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
