"""The tables of files in vector stores, as SQLAlchemy Core objects; migrations/ holds their DDL."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Table, Text

from mcp_server.storage.sql.schema import JsonText, at, metadata

vector_file_batches = Table(
    "vector_file_batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("store", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("cancelled", Boolean, nullable=False),
    at("created_at"),
)

vector_store_files = Table(
    "vector_store_files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("store", Text, nullable=False),
    Column("file", Text(collation="C"), nullable=False),
    # False: it was given again or taken out, and only its batch still counts it.
    Column("present", Boolean, nullable=False),
    Column("batch", Text),
    Column("run", Text, nullable=False),
    Column("status", Text, nullable=False),
    # Until there is a document, which has them then.
    Column("attributes", JsonText, nullable=False),
    # {max_tokens, overlap_tokens}; None: as the server cuts.
    Column("chunking", JsonText),
    Column("error_code", Text),
    Column("error_message", Text),
    at("created_at"),
)
