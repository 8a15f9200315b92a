"""The tables of the control database, as SQLAlchemy Core objects; migrations/ holds their DDL."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlalchemy.types import UserDefinedType

from mcp_server.errors import InvalidInput

metadata = MetaData()


class JsonText(TypeDecorator[Any]):
    """Any JSON value as ASCII text, so that it comes back unchanged.

    `jsonb` would reorder keys, rewrite numbers and refuse U+0000; text holds its escape.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        del dialect
        return None if value is None else encode_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        del dialect
        return None if value is None else json.loads(value)


class Xid8(UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id, handled as its decimal text."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


class Vector(UserDefinedType[str]):
    """A pgvector value of any dimension, handled as its text form `[x,y,…]`."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "vector"


def encode_json(value: Any) -> str:
    """Return ASCII JSON text.

    Raises:
        InvalidInput: the value holds NaN, an infinity or something that JSON has not.
    """
    try:
        return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"the value is not JSON ({error}); NaN and infinities have no JSON form"
        ) from error


def at(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


tenants = Table(
    "tenants",
    metadata,
    Column("name", Text, primary_key=True),
    # Opaque: names the tenant's version counter without showing the tenant's name.
    Column("id", BigInteger, nullable=False),
    at("created_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("rate_limit", Text),
    at("created_at"),
    at("expires_at", nullable=True),
    at("revoked_at", nullable=True),
)

journal = Table(
    "journal",
    metadata,
    Column("xid", Xid8, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("uri", Text, nullable=False),
    Column("version", BigInteger),
    Column("prev_version", BigInteger),
    Column("run", Text),
    Column("step", Text),
    Column("labels", ARRAY(Text), nullable=False),
    Column("subject", Text, nullable=False),
    at("at"),
)

# The newest entry of each tenant that the journal does not hold any more.
journal_floors = Table(
    "journal_floors",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("xid", Xid8, nullable=False),
    Column("seq", BigInteger, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, primary_key=True),
    at("at"),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("key_id", Text),
    Column("verb", Text, nullable=False),
    Column("uri", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("labels", ARRAY(Text), nullable=False),
    Column("micros", BigInteger, nullable=False),
)

kv = Table(
    "kv",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("namespace", Text, primary_key=True),
    Column("key", Text(collation="C"), primary_key=True),
    Column("value", JsonText, nullable=False),
    Column("version", BigInteger, nullable=False),
    at("updated_at"),
    at("expires_at", nullable=True),
)

objects = Table(
    "objects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("bucket", Text, nullable=False),
    Column("key", Text(collation="C"), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("etag", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    # Several objects may share one: a copy moves no bytes.
    Column("blob", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("tags", JSONB, nullable=False),
    at("created_at"),
    at("updated_at"),
    # From then on nobody sees it; null if it stays.
    at("expires_at", nullable=True),
)

# Blobs that a manifest row ceased to name: the collector deletes the payload if none names it, then the row.
garbage_blobs = Table(
    "garbage_blobs",
    metadata,
    Column("blob", Text, primary_key=True),
    at("since"),
)

vector_stores = Table(
    "vector_stores",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("embedding_model", Text, nullable=False),
    Column("dimensions", Integer, nullable=False),
    at("created_at"),
    # The engine that holds the vectors; within this database, in which shard, and how it is indexed.
    Column("engine", Text, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("index_state", Text, nullable=False),
    Column("measured_chunks", BigInteger, nullable=False),
    at("measured_at", nullable=True),
    # How the OpenAI face shows it. Unused for `expires_days`, it has expired.
    Column("label", Text),
    Column("description", Text),
    Column("metadata", JsonText, nullable=False),
    Column("expires_days", Integer),
    at("last_active_at"),
)
STORE_EXPIRES_AT = vector_stores.c.last_active_at + func.make_interval(
    0, 0, 0, vector_stores.c.expires_days
)
STORE_EXPIRED = func.coalesce(func.now() >= STORE_EXPIRES_AT, False)

documents = Table(
    "documents",
    metadata,
    Column("store", Text, primary_key=True),
    Column("document", Text(collation="C"), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("version", BigInteger, nullable=False),
    at("created_at"),
    Column("title", Text),
    Column("source", Text),
    Column("media_type", Text),
    at("updated_at"),
    # Of the text in UTF-8.
    Column("bytes", BigInteger, nullable=False),
)

# The bodies of a document's chunks, one after the other, are its text.
chunks = Table(
    "chunks",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("store", Text, nullable=False),
    Column("document", Text(collation="C"), nullable=False),
    Column("chunk", Integer, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("body", Text, nullable=False),
    # Offsets in characters of the document's text, end exclusive.
    Column("start_at", Integer, nullable=False),
    Column("end_at", Integer, nullable=False),
    Column("page", Integer),
    Column("heading", Text),
    # Where what it is found by begins, if that is before its own text.
    Column("lead_at", Integer),
)

# Tokens and vectors of chunks. An engine of its own holds the vectors under the same ids and leaves the
# embedding out here; the tokens stay, since they count how rare a word is.
chunk_vectors = Table(
    "chunk_vectors",
    metadata,
    Column("shard", Integer, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("store", Text, nullable=False),
    Column("document", Text(collation="C"), nullable=False),
    Column("tenant", Text, nullable=False),
    Column("tokens", TSVECTOR, nullable=False),
    # The number of tokens, repeats counted: BM25's document length.
    Column("length", Integer, nullable=False),
    Column("embedding", Vector),
    Column("generation", BigInteger),
)
