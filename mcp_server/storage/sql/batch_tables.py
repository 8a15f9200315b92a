"""The tables of batches, as SQLAlchemy Core objects; migrations/ holds their DDL."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table, Text

from mcp_server.storage.sql.schema import JsonText, at, metadata

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("key_id", Text),
    Column("run", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file", Text, nullable=False),
    # Drawn when the batch is made; there is such a file if a line completed, or failed.
    Column("output_file", Text, nullable=False),
    Column("error_file", Text, nullable=False),
    Column("output_seconds", Integer),
    Column("metadata", JsonText),
    Column("status", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    # What is wrong with the input file: [{code, message, param, line}].
    Column("errors", JsonText),
    at("created_at"),
    at("in_progress_at", nullable=True),
    at("finalizing_at", nullable=True),
    at("cancelling_at", nullable=True),
    at("ended_at", nullable=True),
    # The end of its completion window.
    at("due_at"),
    at("expires_at"),
)

batch_lines = Table(
    "batch_lines",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("batch", Text, primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("custom_id", Text(collation="C"), nullable=False),
    Column("first_byte", BigInteger, nullable=False),
    Column("end_byte", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("answer_id", Text),
    Column("status_code", Integer),
    Column("request_id", Text),
    # JSON as it was answered.
    Column("body", Text),
    # {code, message} of a line that was not answered.
    Column("error", JsonText),
)
