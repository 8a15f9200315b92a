"""The tables behind documents that are not seen: earlier versions, and what an engine is to give back."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from mcp_server.storage.sql.schema import at, metadata

document_versions = Table(
    "document_versions",
    metadata,
    Column("store", Text, primary_key=True),
    Column("document", Text(collation="C"), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("title", Text),
    Column("source", Text),
    Column("media_type", Text),
    # [start, end, page, heading, lead] of each chunk.
    Column("pieces", JSONB, nullable=False),
    at("replaced_at"),
)

vector_garbage = Table(
    "vector_garbage",
    metadata,
    Column("generation", BigInteger, primary_key=True),
    Column("store", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("dimensions", Integer, nullable=False),
    at("due_at"),
    Column("collecting", Boolean, nullable=False),
)
