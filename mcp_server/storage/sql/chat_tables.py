"""The tables of chats in the control database, as SQLAlchemy Core objects; migrations/ holds their DDL."""

from __future__ import annotations

from sqlalchemy import Column, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY

from mcp_server.storage.sql.schema import JsonText, at, metadata

stored_chats = Table(
    "stored_chats",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("key_id", Text),
    # As it was asked for: whoever may run it decides about what its own key made of it.
    Column("model", Text, nullable=False),
    Column("metadata", JsonText, nullable=False),
    # Each of the metadata as JSON text, to be looked for.
    Column("pairs", ARRAY(Text), nullable=False),
    # What was asked, as the client sent it.
    Column("messages", JsonText, nullable=False),
    Column("completion", JsonText, nullable=False),
    at("created_at"),
)

kept_turns = Table(
    "kept_turns",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("key_id", Text),
    # The messages of a loop: the model's, with all its calls, and the results of the server's own.
    Column("transcript", JsonText, nullable=False),
    # The ids that the model gave to the client's calls.
    Column("calls", ARRAY(Text), nullable=False),
    at("expires_at"),
)
