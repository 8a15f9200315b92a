"""Vector stores of the OpenAI face: what each is known by, the files in them, and those that came together."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"

STATEMENTS: tuple[str, ...] = (
    # A store that is made there is named by its id, and shown by its label.
    """
    alter table vector_stores
        add column label text,
        add column description text,
        add column metadata text not null default '{}',
        add column expires_days int,
        add column last_active_at timestamptz not null default now()
    """,
    "update vector_stores set last_active_at = created_at",
    "create index vector_stores_page on vector_stores (tenant, created_at, id)",
    "create index vector_stores_expiry on vector_stores (last_active_at) where expires_days is not null",
    # The text in UTF-8.
    "alter table documents add column bytes bigint not null default 0",
    """
    update documents d set bytes = whole.bytes from (
        select store, document, sum(octet_length(body)) as bytes from chunks group by store, document
    ) whole where whole.store = d.store and whole.document = d.document
    """,
    # Where what a chunk is found by begins, if that is before its own text.
    "alter table chunks add column lead_at int",
    "create index documents_page on documents (store, created_at, document)",
    """
    create table vector_file_batches (
        id text primary key,
        tenant text not null,
        store text not null references vector_stores (id) on delete cascade,
        run text not null,
        cancelled boolean not null default false,
        created_at timestamptz not null default now()
    )
    """,
    "create index vector_file_batches_age on vector_file_batches (created_at)",
    "create index vector_file_batches_store on vector_file_batches (store)",
    # One row for each time a file was given to a store. Its document, once there is one, has the text,
    # the attributes and the usage; documents that came another way have no row here.
    """
    create table vector_store_files (
        id text primary key,
        tenant text not null,
        store text not null references vector_stores (id) on delete cascade,
        file text collate "C" not null,
        -- Not any more: it was given again, or taken out, and only its batch still counts it.
        present boolean not null default true,
        batch text references vector_file_batches (id) on delete set null,
        run text not null,
        status text not null default 'in_progress'
            check (status in ('in_progress', 'completed', 'failed', 'cancelled')),
        attributes text not null,
        chunking text,
        error_code text,
        error_message text,
        created_at timestamptz not null default now()
    )
    """,
    "create unique index vector_store_files_present on vector_store_files (store, file) where present",
    "create index vector_store_files_page on vector_store_files (store, created_at, file) where present",
    "create index vector_store_files_batch on vector_store_files (batch, file)",
    "create index vector_store_files_run on vector_store_files (run)",
    # A file that is deleted leaves every store of its tenant.
    "create index vector_store_files_file on vector_store_files (tenant, file) where present",
    "create index documents_name on documents (tenant, document)",
)


def upgrade() -> None:
    """Apply it."""
    for statement in STATEMENTS:
        op.execute(statement)
