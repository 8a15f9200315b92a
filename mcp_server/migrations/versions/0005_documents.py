"""Documents: earlier versions, where their text came from, and how each store is searched."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS: tuple[str, ...] = (
    """
    alter table documents
        add column title text,
        add column source text,
        add column media_type text,
        add column updated_at timestamptz not null default now()
    """,
    "create index documents_metadata on documents using gin (metadata jsonb_path_ops)",
    # The page counts from 1; the heading is that of the part in which the chunk begins.
    "alter table chunks add column page int, add column heading text",
    # What a write or a delete replaced: the text, and where its chunks stood in it.
    """
    create table document_versions (
        store text not null references vector_stores (id) on delete cascade,
        document text collate "C" not null,
        version bigint not null,
        tenant text not null,
        body text not null,
        metadata jsonb not null,
        title text,
        source text,
        media_type text,
        pieces jsonb not null,
        replaced_at timestamptz not null default clock_timestamp(),
        primary key (store, document, version)
    )
    """,
    "create index document_versions_age on document_versions (replaced_at)",
    # The engine that holds a store's vectors. A store of its own shard is searched by an index there;
    # its chunks and their mean length were measured when that was decided.
    """
    alter table vector_stores
        add column engine text not null default 'postgresql',
        add column shard int not null default 0,
        add column index_state text not null default 'none'
            check (index_state in ('none', 'moving', 'building', 'ready')),
        add column measured_chunks bigint not null default 0,
        add column measured_at timestamptz
    """,
    "create sequence vector_shards as int",
    # Shard 0 is shared by small stores. A row moves to its store's own shard by an update of `shard`.
    "alter table chunk_vectors rename to chunk_vectors_0",
    "alter index chunk_vectors_store rename to chunk_vectors_0_store",
    "alter index chunk_vectors_tokens rename to chunk_vectors_0_tokens",
    # Another engine keeps the embeddings, and the generation tells which of its entries are meant.
    """
    alter table chunk_vectors_0
        add column shard int not null default 0,
        add column generation bigint,
        alter column embedding drop not null,
        drop constraint chunk_vectors_pkey,
        add primary key (shard, id)
    """,
    """
    create table chunk_vectors (like chunk_vectors_0 including defaults, primary key (shard, id))
    partition by list (shard)
    """,
    "create index chunk_vectors_store on chunk_vectors (store, document) include (tenant, length)",
    "create index chunk_vectors_tokens on chunk_vectors using gin (tokens)",
    "alter table chunk_vectors attach partition chunk_vectors_0 for values in (0)",
    # Entries in an engine of its own that no row names, or none yet: collected when they are due,
    # unless the transaction that publishes them takes them off the list.
    """
    create table vector_garbage (
        generation bigint primary key,
        store text not null,
        tenant text not null,
        dimensions int not null,
        due_at timestamptz not null,
        collecting boolean not null default false
    )
    """,
    "create index vector_garbage_due on vector_garbage (due_at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
