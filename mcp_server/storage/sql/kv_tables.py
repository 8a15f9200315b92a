"""The tables beside `kv` in the control database, as SQLAlchemy Core objects; migrations/ holds their DDL."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Table, Text

from mcp_server.storage.sql.schema import JsonText, at, metadata

kv_namespaces = Table(
    "kv_namespaces",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text(collation="C"), primary_key=True),
    at("created_at"),
)

# What writes and deletes replaced, under the version that it had.
kv_versions = Table(
    "kv_versions",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("key", Text(collation="C"), nullable=False),
    Column("value", JsonText, nullable=False),
    at("expires_at", nullable=True),
    at("replaced_at"),
)

# `token` comes from the tenant's version counter: it rises for ever and is of one lease only.
kv_leases = Table(
    "kv_leases",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("namespace", Text, primary_key=True),
    Column("key", Text(collation="C"), primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("owner", Text),
    at("expires_at"),
)
