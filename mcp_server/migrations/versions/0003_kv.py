"""Keys: namespaces that stay, earlier values for undo, and leases with fencing tokens."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS: tuple[str, ...] = (
    # A namespace comes into being with its first key, and stays when its last one goes.
    """
    create table kv_namespaces (
        tenant text not null,
        name text collate "C" not null,
        created_at timestamptz not null default now(),
        primary key (tenant, name)
    )
    """,
    "insert into kv_namespaces (tenant, name) select distinct tenant, namespace from kv",
    # What a write or a delete replaced. Versions are one tenant's own, and never used again.
    """
    create table kv_versions (
        tenant text not null,
        version bigint not null,
        namespace text not null,
        key text collate "C" not null,
        value text not null,
        expires_at timestamptz,
        replaced_at timestamptz not null default now(),
        primary key (tenant, version)
    )
    """,
    "create index kv_versions_age on kv_versions (replaced_at)",
    """
    create table kv_leases (
        tenant text not null,
        namespace text not null,
        key text collate "C" not null,
        token bigint not null,
        owner text,
        expires_at timestamptz not null,
        primary key (tenant, namespace, key),
        unique (tenant, token)
    )
    """,
    "create index kv_leases_expiry on kv_leases (expires_at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
