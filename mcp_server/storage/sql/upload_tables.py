"""The tables of files that are uploaded in parts, as SQLAlchemy Core objects; migrations/ holds their DDL."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY

from mcp_server.storage.sql.schema import at, metadata

file_uploads = Table(
    "file_uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    # The id that the file will have.
    Column("file", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("lifetime_seconds", Integer),
    Column("status", Text, nullable=False),
    Column("part_ids", ARRAY(Text)),
    at("created_at"),
    at("expires_at"),
)

file_upload_parts = Table(
    "file_upload_parts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("upload", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("md5", Text, nullable=False),
    Column("blob", Text, nullable=False),
    at("created_at"),
)
