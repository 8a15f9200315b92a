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
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
