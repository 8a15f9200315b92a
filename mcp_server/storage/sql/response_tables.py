"""The table of responses in the control database, as a SQLAlchemy Core object; migrations/ holds its DDL."""

from __future__ import annotations

from sqlalchemy import Column, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY

from mcp_server.storage.sql.schema import JsonText, at, metadata

responses = Table(
    "responses",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("key_id", Text),
    # As it was asked for: whoever may run it decides about what its own key made of it.
    Column("model", Text, nullable=False),
    # The response or the conversation that this one went on from.
    Column("previous", Text),
    Column("conversation", Text),
    # The items of its own request, without what it went on from.
    Column("input", JsonText, nullable=False),
    Column("response", JsonText, nullable=False),
    # By item: fields that are shown only to who asks for them.
    Column("hidden", JsonText, nullable=False),
    # Of input and output.
    Column("item_ids", ARRAY(Text), nullable=False),
    at("created_at"),
    at("expires_at"),
)
