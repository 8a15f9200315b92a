"""The files of vector stores: those that were given to them, and documents that came another way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    CompoundSelect,
    Row,
    Select,
    Subquery,
    Text,
    and_,
    any_,
    bindparam,
    case,
    exists,
    false,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.runs.record import LIVE
from mcp_server.services.vector_stores.paging import page_of
from mcp_server.services.vector_stores.records import (
    Chunking,
    FileCounts,
    FileRecord,
    Page,
    Paging,
)
from mcp_server.storage.sql.run_tables import runs
from mcp_server.storage.sql.schema import documents
from mcp_server.storage.sql.vector_store_tables import vector_store_files as files
from mcp_server.storage.vectors import Store

BYTES_A_NUMBER = 4
_INTERRUPTED = "the run that read the files ended before this one was done; add it again"

# A run that ended without a word of its files, as one does whose key died, takes them along.
_STATUS = case(
    (or_(files.c.status != "in_progress", runs.c.status.in_(LIVE)), files.c.status),
    (runs.c.status == "cancelled", "cancelled"),
    else_="failed",
)
_RUN = and_(files.c.status == "in_progress", runs.c.id == files.c.run)
_DOCUMENT = and_(
    files.c.present, documents.c.store == files.c.store, documents.c.document == files.c.file
)


def _attached() -> Select[*tuple[Any, ...]]:
    return select(
        files.c.store,
        files.c.file,
        files.c.created_at,
        _STATUS.label("status"),
        files.c.attributes,
        files.c.chunking,
        files.c.error_code,
        files.c.error_message,
        runs.c.error.label("run_error"),
        documents.c.metadata,
        func.coalesce(documents.c.bytes, 0).label("bytes"),
        func.coalesce(documents.c.chunks, 0).label("chunks"),
    ).select_from(files.outerjoin(documents, _DOCUMENT).outerjoin(runs, _RUN))


def _listed(stores: Sequence[str]) -> Subquery:
    within = any_(bindparam("stores", list(stores), type_=ARRAY(Text)))
    attached = _attached().where(
        files.c.store == within,
        files.c.present,
        or_(files.c.status != "completed", documents.c.document.is_not(None)),
    )
    known = exists().where(
        files.c.store == documents.c.store, files.c.file == documents.c.document, files.c.present
    )
    others = select(
        documents.c.store,
        documents.c.document,
        documents.c.created_at,
        literal("completed"),
        *(null(), null(), null(), null(), null()),
        documents.c.metadata,
        documents.c.bytes,
        documents.c.chunks,
    ).where(documents.c.store == within, ~known)
    return union_all(attached, others).subquery("listed")


def _of_batch(batch: str) -> Subquery:
    return _attached().where(files.c.batch == batch).subquery("listed")


async def find(tx: AsyncConnection, store: Store, file: str) -> FileRecord | None:
    """Return one file of a store."""
    listed = _listed([store.id])
    row = (await tx.execute(select(listed).where(listed.c.file == file))).first()
    return None if row is None else _record(row, store)


async def page(
    tx: AsyncConnection,
    store: Store,
    paging: Paging,
    *,
    status: str | None,
    prefixes: Sequence[str] | None,
    batch: str | None = None,
) -> Page[FileRecord]:
    """Return a page of the files of a store, or of a batch, whose names begin with one of the prefixes.

    Raises:
        UnknownCursor: the page should begin at a file that is not in the list.
    """
    listed = _listed([store.id]) if batch is None else _of_batch(batch)
    conditions: list[ColumnElement[bool]] = []
    if status is not None:
        conditions.append(listed.c.status == status)
    if prefixes is not None:
        shown = [func.starts_with(listed.c.file, prefix) for prefix in prefixes]
        conditions.append(or_(false(), *shown))
    query = select(listed).where(*conditions)
    rows, more = await page_of(tx, query, listed.c.created_at, listed.c.file, paging)
    return Page([_record(row, store) for row in rows], more)


def holding(tenant: str, file: str) -> CompoundSelect[Any]:
    """Return the query for the ids of the stores that have a file, or were given it."""
    given = select(files.c.store).where(
        files.c.tenant == tenant, files.c.file == file, files.c.present
    )
    read = select(documents.c.store).where(
        documents.c.tenant == tenant, documents.c.document == file
    )
    return given.union(read)


async def counts(
    tx: AsyncConnection, dimensions: Mapping[str, int]
) -> dict[str, tuple[FileCounts, int]]:
    """Return of each store how many files it has and how many bytes they use; given are their dimensions."""
    listed = _listed(list(dimensions))
    columns = (
        func.count().label("files"),
        func.sum(listed.c.bytes).label("bytes"),
        func.sum(listed.c.chunks).label("chunks"),
    )
    query = select(listed.c.store, listed.c.status, *columns)
    grouped = query.group_by(listed.c.store, listed.c.status)
    numbers: dict[str, dict[str, int]] = {store: {} for store in dimensions}
    used = dict.fromkeys(dimensions, 0)
    for row in await tx.execute(grouped):
        numbers[row.store][row.status] = row.files
        vectors = int(row.chunks) * dimensions[row.store] * BYTES_A_NUMBER
        used[row.store] += int(row.bytes) + vectors
    return {store: (FileCounts(**numbers[store]), used[store]) for store in dimensions}


async def batch_counts(tx: AsyncConnection, batch: str) -> FileCounts:
    """Return how many files of a batch there are of each status."""
    listed = _of_batch(batch)
    query = select(listed.c.status, func.count().label("files")).group_by(listed.c.status)
    return FileCounts(**{row.status: row.files for row in await tx.execute(query)})


def chunking_of(kept: dict[str, int] | None) -> Chunking | None:
    return None if kept is None else Chunking(**kept)


def _record(row: Row[Any], store: Store) -> FileRecord:
    kept = row.attributes if row.metadata is None else row.metadata
    return FileRecord(
        file=row.file,
        store=store.id,
        status=row.status,
        created_at=row.created_at,
        usage_bytes=row.bytes + row.chunks * store.dimensions * BYTES_A_NUMBER,
        attributes=kept if row.status != "in_progress" else row.attributes,
        chunking=chunking_of(row.chunking),
        error=_error(row) if row.status == "failed" else None,
    )


def _error(row: Row[Any]) -> tuple[str, str]:
    if row.error_code is not None:
        return row.error_code, row.error_message
    told: dict[str, str] = row.run_error or {}
    return "server_error", told.get("message") or _INTERRUPTED
