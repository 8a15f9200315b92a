"""The order of the journal and its oldest days; units of work that span the control database and the tenants' own."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = (
    # Transactions with several changes, and those with idempotency keys, have their id before they
    # wait for a row: by their ids alone a later change of one key could stand before an earlier one.
    # The newest id that has ended puts it after whatever it waited for, and readers lose nothing by it:
    # no entry comes below the oldest transaction that is open.
    """
    alter table journal alter column xid set default greatest(
        pg_current_xact_id(),
        (pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)::text::xid8)
    """,
    # For those who follow every tenant's entries.
    "create index journal_everything on journal (xid, seq)",
    """
    create table journal_floors (
        tenant text primary key references tenants (name) on delete cascade,
        xid xid8 not null,
        seq bigint not null
    )
    """,
    # A row is a unit whose rows may be committed in the data database while the rest is not: whoever
    # finds it finishes it or drops it, as the mark beside the rows says.
    """
    create table units (
        id text primary key,
        tenant text not null references tenants (name) on delete cascade,
        key text collate "C",
        content text not null,
        made_at timestamptz not null default clock_timestamp(),
        unique (tenant, key)
    )
    """,
    # What such a unit will write, and nobody else may until then.
    """
    create table unit_holds (
        tenant text not null,
        uri text not null,
        unit text not null references units (id) on delete cascade,
        primary key (tenant, uri)
    )
    """,
    "create index unit_holds_unit on unit_holds (unit)",
    # The blobs that it will name: no garbage, though no object names them yet.
    """
    create table unit_blobs (
        blob text not null,
        unit text not null references units (id) on delete cascade,
        primary key (blob, unit)
    )
    """,
    "create index unit_blobs_unit on unit_blobs (unit)",
    "alter function blob_is_named(text) rename to blob_is_named_by_object",
    """
    create function blob_is_named(wanted text) returns boolean language sql stable as $$
        select blob_is_named_by_object(wanted)
            or exists (select from unit_blobs where blob = wanted)
    $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
