"""The tables beside the manifest of objects: earlier versions, pins, links and resumable uploads."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from mcp_server.storage.sql.schema import at, metadata

# What a write or delete replaced, kept for UNDO_DAYS: a row as it stood in `objects`.
object_versions = Table(
    "object_versions",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("bucket", Text, primary_key=True),
    Column("key", Text(collation="C"), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("id", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("etag", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("blob", Text, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("tags", JSONB, nullable=False),
    at("created_at"),
    at("updated_at"),
    at("replaced_at"),
)

# Blobs that somebody needs who has no manifest row for them yet; `holder` deletes its rows when it ends.
pinned_blobs = Table(
    "pinned_blobs",
    metadata,
    Column("blob", Text, primary_key=True),
    Column("holder", Text, primary_key=True),
    at("since"),
)

# One link by the SHA-256 of its token, with the rights of whoever made it.
object_links = Table(
    "object_links",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("key_id", Text),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("bucket", Text, nullable=False),
    Column("key", Text(collation="C"), nullable=False),
    Column("method", Text, nullable=False),
    Column("content_type", Text),
    Column("if_match", Text),
    Column("if_none_match", Text),
    Column("max_bytes", BigInteger),
    at("created_at"),
    at("expires_at"),
)

# `received` bytes of `length` are stored in parts; `completed` is the object's answer once it exists.
object_uploads = Table(
    "object_uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("bucket", Text, nullable=False),
    Column("key", Text(collation="C"), nullable=False),
    Column("content_type", Text, nullable=False),
    Column("if_match", Text),
    Column("if_none_match", Text),
    Column("metadata", JSONB, nullable=False),
    Column("tags", JSONB, nullable=False),
    # Upload-Metadata as the client sent it, to be shown again.
    Column("header", Text, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("received", BigInteger, nullable=False),
    Column("completed", JSONB(none_as_null=True)),
    at("created_at"),
    at("expires_at"),
)

object_upload_parts = Table(
    "object_upload_parts",
    metadata,
    Column("upload", Text, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("blob", Text, nullable=False),
)
