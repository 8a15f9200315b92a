"""The rows of vector stores: stores, documents and chunks; they decide what exists."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    and_,
    any_,
    bindparam,
    delete,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server import filters
from mcp_server.services.vectors.content import Piece
from mcp_server.storage.sql.schema import chunks, documents, vector_stores
from mcp_server.storage.vectors import Restriction, Store

STORE_ID = "vs_"


@dataclass(frozen=True, slots=True)
class Draft:
    """A document about to be written."""

    name: str
    metadata: dict[str, Any]
    sha256: str
    pieces: Sequence[Piece]


async def find_store(tx: AsyncConnection, tenant: str, name: str) -> Store | None:
    """Return a tenant's store by its name or its `vs_` id."""
    by = vector_stores.c.id if name.startswith(STORE_ID) else vector_stores.c.name
    found = await tx.execute(
        select(vector_stores).where(vector_stores.c.tenant == tenant, by == name)
    )
    row = found.first()
    if row is None:
        return None
    return Store(row.id, row.tenant, row.name, row.embedding_model, row.dimensions)


async def make_store(
    tx: AsyncConnection, tenant: str, name: str, model: str, dimensions: int
) -> Store:
    """Return the store of a name, made now unless somebody else just made it."""
    values = {
        "id": STORE_ID + secrets.token_hex(12),
        "tenant": tenant,
        "name": name,
        "embedding_model": model,
        "dimensions": dimensions,
    }
    await tx.execute(upsert(vector_stores).values(values).on_conflict_do_nothing())
    store = await find_store(tx, tenant, name)
    assert store is not None, "a store is never deleted"  # noqa: S101
    return store


async def find_document(tx: AsyncConnection, store: Store, name: str) -> Row[Any] | None:
    found = await tx.execute(select(documents).where(_of(store), documents.c.document == name))
    return found.first()


async def body(tx: AsyncConnection, store: Store, name: str) -> str:
    """Return a document's text: its chunks end to end."""
    query = select(func.string_agg(chunks.c.body, text("'' order by chunk"))).where(
        chunks.c.store == store.id, chunks.c.document == name
    )
    return await tx.scalar(query) or ""


async def chunk_ids(tx: AsyncConnection, count: int) -> list[int]:
    """Return ids that no chunk ever had."""
    drawn = await tx.execute(
        text("select nextval('chunk_ids') from generate_series(1, :count)"), {"count": count}
    )
    return list(drawn.scalars())


async def put_document(tx: AsyncConnection, store: Store, draft: Draft) -> tuple[int, int | None]:
    """Write the document's row, locked until the end of `tx`; return its version and the one before."""
    values = {
        "metadata": draft.metadata,
        "sha256": draft.sha256,
        "chunks": len(draft.pieces),
        "version": func.next_version(store.tenant),
    }
    new = {"store": store.id, "document": draft.name, "tenant": store.tenant}
    here = and_(_of(store), documents.c.document == draft.name)
    make = upsert(documents).values(new | values).on_conflict_do_nothing()
    while True:
        version = await tx.scalar(make.returning(documents.c.version))
        if version is not None:
            return version, None
        before = await tx.scalar(select(documents.c.version).where(here).with_for_update())
        if before is not None:  # else it was deleted between the two statements
            break
    change = update(documents).where(here).values(values).returning(documents.c.version)
    return (await tx.execute(change)).scalar_one(), before


async def put_chunks(tx: AsyncConnection, store: Store, draft: Draft, ids: Sequence[int]) -> None:
    """Put the document's chunks in the place of those it had."""
    old = and_(chunks.c.store == store.id, chunks.c.document == draft.name)
    await tx.execute(delete(chunks).where(old))
    rows = [
        {
            "id": key,
            "store": store.id,
            "document": draft.name,
            "chunk": ordinal,
            "tenant": store.tenant,
            "body": piece.body,
            "start_at": piece.start,
            "end_at": piece.end,
        }
        for ordinal, (key, piece) in enumerate(zip(ids, draft.pieces, strict=True))
    ]
    await tx.execute(insert(chunks), rows)


async def hydrate(tx: AsyncConnection, store: Store, ids: Sequence[int]) -> dict[int, Row[Any]]:
    """Return those chunks that exist, by id, with their document's metadata."""
    listed = bindparam("ids", list(ids), type_=ARRAY(BigInteger))
    query = (
        select(chunks, documents.c.metadata)
        .join(
            documents,
            and_(documents.c.store == chunks.c.store, documents.c.document == chunks.c.document),
        )
        .where(chunks.c.id == any_(listed), _of(store))
    )
    return {row.id: row for row in await tx.execute(query)}


async def page(
    tx: AsyncConnection, store: Store, within: Restriction, after: str | None, limit: int
) -> Sequence[Row[Any]]:
    """Return documents in byte order of their names."""
    query = select(documents).where(_matching(store, within))
    if after is not None:
        query = query.where(documents.c.document > after)
    return (await tx.execute(query.order_by(documents.c.document).limit(limit))).all()


async def delete_documents(
    tx: AsyncConnection, store: Store, within: Restriction, name: str | None = None
) -> dict[str, int]:
    """Delete documents with their chunks; return those that were there, with their versions."""
    doomed = _matching(store, within)
    if name is not None:
        doomed = and_(doomed, documents.c.document == name)
    # Locked in one order, so that two deletes of many never wait for each other.
    names = select(documents.c.document).where(doomed).order_by(documents.c.document)
    locked = names.with_for_update().cte("locked")
    gone = (
        delete(documents)
        .where(_of(store), documents.c.document.in_(select(locked.c.document)))
        .returning(documents.c.document, documents.c.version)
    )
    return {row.document: row.version for row in await tx.execute(gone)}


def _of(store: Store) -> ColumnElement[bool]:
    return and_(documents.c.store == store.id, documents.c.tenant == store.tenant)


def _matching(store: Store, within: Restriction) -> ColumnElement[bool]:
    conditions = [_of(store)]
    if within.prefixes is not None:
        name = documents.c.document
        conditions.append(
            or_(false(), *(func.starts_with(name, literal(item)) for item in within.prefixes))
        )
    if within.filter is not None:
        conditions.append(filters.compile(within.filter, lambda key: documents.c.metadata[key]))
    return and_(*conditions)
