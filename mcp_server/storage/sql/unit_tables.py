"""The tables of units of work in the control database, as SQLAlchemy Core objects; migrations/ holds their DDL."""

from __future__ import annotations

from sqlalchemy import Column, Table, Text

from mcp_server.storage.sql.schema import JsonText, at, metadata

# A unit whose rows may be committed in the data database while the rest is not.
units = Table(
    "units",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    # The idempotency key of its call.
    Column("key", Text(collation="C")),
    Column("content", JsonText, nullable=False),
    at("made_at"),
)

unit_holds = Table(
    "unit_holds",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("uri", Text, primary_key=True),
    Column("unit", Text, nullable=False),
)

unit_blobs = Table(
    "unit_blobs",
    metadata,
    Column("blob", Text, primary_key=True),
    Column("unit", Text, primary_key=True),
)
