"""The tables of agents in the control database, as SQLAlchemy Core objects; migrations/ holds their DDL."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Table, Text

from mcp_server.storage.sql.schema import JsonText, at, metadata

agents = Table(
    "agents",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text(collation="C"), primary_key=True),
    Column("definition", JsonText, nullable=False),
    Column("version", BigInteger, nullable=False),
    # What the definition says, for the lists of tools and prompts, which are made often.
    Column("as_tool", Boolean, nullable=False),
    Column("as_prompt", Boolean, nullable=False),
    # Since when it rests: no new run begins.
    at("paused_at", nullable=True),
    at("created_at"),
    at("updated_at"),
)

agent_versions = Table(
    "agent_versions",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text(collation="C"), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("definition", JsonText, nullable=False),
    # Who saved it.
    Column("subject", Text, nullable=False),
    at("saved_at"),
)
