"""The rows of documents and their chunks; they decide what exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Text,
    and_,
    any_,
    bindparam,
    case,
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
from mcp_server.services.vectors.content import Document
from mcp_server.storage.sql.schema import chunks, documents
from mcp_server.storage.sql.vector_store_tables import vector_store_files
from mcp_server.storage.vectors import Restriction, Store

_earlier = chunks.alias("earlier")


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


async def make_document(tx: AsyncConnection, store: Store, new: Document) -> tuple[int, int]:
    """Make the document's row, or lock the one that is there, until the end of `tx`.

    Returns:
        The version made, 0 if it was there, and the version that was there, 0 if it was made.
    """
    at = {"store": store.id, "document": new.name, "tenant": store.tenant}
    make = upsert(documents).values(at | _values(store, new)).on_conflict_do_nothing()
    here = and_(_of(store), documents.c.document == new.name)
    while True:
        version = await tx.scalar(make.returning(documents.c.version))
        if version is not None:
            return version, 0
        before = await tx.scalar(select(documents.c.version).where(here).with_for_update())
        if before is not None:  # else it was deleted between the two statements
            return 0, before


async def replace_document(tx: AsyncConnection, store: Store, new: Document) -> int:
    """Write the row of a document that `tx` holds the lock of; return its new version."""
    here = and_(_of(store), documents.c.document == new.name)
    values = _values(store, new) | {"updated_at": func.now()}
    change = update(documents).where(here).values(values).returning(documents.c.version)
    return (await tx.execute(change)).scalar_one()


def _values(store: Store, new: Document) -> dict[str, Any]:
    return {
        "metadata": new.metadata,
        "sha256": new.sha256,
        "chunks": len(new.pieces),
        "bytes": len(new.text.encode()),
        "version": func.next_version(store.tenant),
        "title": new.title,
        "source": new.source,
        "media_type": new.media_type,
    }


async def put_metadata(
    tx: AsyncConnection, store: Store, name: str, metadata: Mapping[str, Any]
) -> int:
    """Change the metadata of a document that `tx` holds the lock of; return its new version."""
    change = (
        update(documents)
        .where(_of(store), documents.c.document == name)
        .values(metadata=metadata, version=func.next_version(store.tenant), updated_at=func.now())
    )
    return (await tx.execute(change.returning(documents.c.version))).scalar_one()


async def put_chunks(tx: AsyncConnection, store: Store, new: Document, ids: Sequence[int]) -> None:
    """Put the document's chunks in the place of those it had."""
    old = and_(chunks.c.store == store.id, chunks.c.document == new.name)
    await tx.execute(delete(chunks).where(old))
    rows = [
        {
            "id": key,
            "store": store.id,
            "document": new.name,
            "chunk": ordinal,
            "tenant": store.tenant,
            "body": piece.body,
            "start_at": piece.start,
            "end_at": piece.end,
            "page": piece.page,
            "heading": piece.heading,
            "lead_at": piece.lead,
        }
        for ordinal, (key, piece) in enumerate(zip(ids, new.pieces, strict=True))
    ]
    await tx.execute(insert(chunks), rows)


async def hydrate(tx: AsyncConnection, store: Store, ids: Sequence[int]) -> dict[int, Row[Any]]:
    """Return those chunks that exist, by id, with their document's metadata and the text before them."""
    listed = bindparam("ids", list(ids), type_=ARRAY(BigInteger))
    whole = func.string_agg(_earlier.c.body, text("'' order by earlier.chunk"))
    before = (
        select(func.right(whole, chunks.c.start_at - chunks.c.lead_at))
        .where(
            *(_earlier.c.store == chunks.c.store, _earlier.c.document == chunks.c.document),
            *(_earlier.c.chunk < chunks.c.chunk, _earlier.c.end_at > chunks.c.lead_at),
        )
        .correlate(chunks)
        .scalar_subquery()
    )
    query = (
        select(
            # A plain chunk costs no second look.
            *(chunks, case((chunks.c.lead_at.is_not(None), before)).label("before")),
            *(documents.c.metadata, documents.c.title, documents.c.source),
        )
        .join(
            documents,
            and_(documents.c.store == chunks.c.store, documents.c.document == chunks.c.document),
        )
        .where(chunks.c.id == any_(listed), _of(store))
    )
    return {row.id: row for row in await tx.execute(query)}


async def chunks_of(tx: AsyncConnection, store: Store, name: str) -> Sequence[Row[Any]]:
    """Return a document's chunks in their order."""
    mine = and_(chunks.c.store == store.id, chunks.c.document == name)
    return (await tx.execute(select(chunks).where(mine).order_by(chunks.c.chunk))).all()


async def page(
    tx: AsyncConnection,
    store: Store,
    within: Restriction,
    after: str | None,
    limit: int,
    name: str | None = None,
) -> Sequence[Row[Any]]:
    """Return documents in byte order of their names; only the one of a name if it is given."""
    query = select(documents).where(_matching(store, within))
    if name is not None:
        query = query.where(documents.c.document == name)
    if after is not None:
        query = query.where(documents.c.document > after)
    return (await tx.execute(query.order_by(documents.c.document).limit(limit))).all()


async def lock_documents(
    tx: AsyncConnection, store: Store, within: Restriction, name: str | None = None
) -> Sequence[Row[Any]]:
    """Lock documents until the end of `tx`, and return those that are there, by name.

    They are locked in one order, so that two calls about many never wait for each other.
    """
    wanted = _matching(store, within)
    if name is not None:
        wanted = and_(wanted, documents.c.document == name)
    query = select(documents).where(wanted).order_by(documents.c.document)
    return (await tx.execute(query.with_for_update())).all()


async def delete_documents(tx: AsyncConnection, store: Store, names: Sequence[str]) -> None:
    """Delete documents with their chunks; `tx` holds their locks."""
    doomed = bindparam("doomed", list(names), type_=ARRAY(Text))
    await tx.execute(delete(documents).where(_of(store), documents.c.document == any_(doomed)))
    # A file that was read leaves with its document; one that is being read is still to come.
    of_files = and_(vector_store_files.c.store == store.id, vector_store_files.c.present)
    left = update(vector_store_files).where(
        of_files,
        vector_store_files.c.file == any_(doomed),
        vector_store_files.c.status == "completed",
    )
    await tx.execute(left.values(present=False))


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
