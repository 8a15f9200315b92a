"""The tables of conversations in the control database, as SQLAlchemy Core objects; migrations/ holds their DDL."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Table, Text

from mcp_server.storage.sql.schema import JsonText, at, metadata

conversations = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("metadata", JsonText, nullable=False),
    # The place of the next item; places are never used again.
    Column("next_place", BigInteger, nullable=False),
    # The response that is being made from it, which alone may add items until then.
    Column("held_by", Text),
    at("held_until", nullable=True),
    at("created_at"),
)

conversation_items = Table(
    "conversation_items",
    metadata,
    Column("conversation", Text, primary_key=True),
    Column("place", BigInteger, primary_key=True),
    Column("id", Text, nullable=False),
    Column("item", JsonText, nullable=False),
)
