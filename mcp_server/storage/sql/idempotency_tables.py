"""The table of answers to requests with an idempotency key, as a SQLAlchemy Core object; migrations/ holds its DDL."""

from __future__ import annotations

from sqlalchemy import Column, Table, Text

from mcp_server.storage.sql.schema import at, metadata

idempotent_answers = Table(
    "idempotent_answers",
    metadata,
    Column("tenant", Text, primary_key=True),
    # The key of this server, or who it is without one.
    Column("caller", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    # SHA-256 of method, path, query and body.
    Column("fingerprint", Text, nullable=False),
    # Who is making the answer, until when if it is not heard of again; None of `answer` until it is there.
    Column("claim", Text, nullable=False),
    at("claimed_until"),
    Column("answer", Text),
    at("expires_at"),
)
