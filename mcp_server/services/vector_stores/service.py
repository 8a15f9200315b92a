"""Vector stores with a label, metadata and an expiry: made, shown, changed, deleted."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.errors import NotFound
from mcp_server.ingest.embed import Embedder
from mcp_server.operation import Operations
from mcp_server.services.files import BUCKET as FILES
from mcp_server.services.objects.addresses import Address
from mcp_server.services.runs import RunService
from mcp_server.services.vector_stores import file_rows
from mcp_server.services.vector_stores.files import VectorFiles
from mcp_server.services.vector_stores.paging import page_of
from mcp_server.services.vector_stores.records import (
    FileCounts,
    GivenFile,
    Page,
    Paging,
    StoreChange,
    StoreRecord,
    StoreTerms,
)
from mcp_server.services.vectors import VectorResult, VectorService, stores
from mcp_server.services.vectors.access import StoreAccess
from mcp_server.storage.sql.schema import vector_stores
from mcp_server.storage.vectors import Store, VectorEngine

_COLUMNS = (
    vector_stores,
    stores.EXPIRES_AT.label("expires_at"),
    stores.EXPIRED.label("expired"),
)


class VectorStoreService(StoreAccess):
    """Every method is one operation on `vector://STORE/`; a store is named, or `vs_…`.

    A store that is made here is named by its id. One that has expired is still shown, and may be
    changed so that it lives again, until it is deleted; nothing else reaches it.
    """

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        engine: VectorEngine,
        embedder: Embedder,
        vectors: VectorService,
        runs: RunService,
    ) -> None:
        super().__init__(operation, control, engine)
        self._embedder = embedder
        self._vectors = vectors
        self.files = VectorFiles(operation, control, engine, vectors, runs)

    async def create(
        self, principal: Principal, terms: StoreTerms, files: Sequence[GivenFile] = ()
    ) -> StoreRecord:
        """Make a store, and have files read into it.

        Raises:
            NotFound: one of the files is not there. Unavailable: the embedding model does not answer.
        """
        name = stores.STORE_ID + secrets.token_hex(12)
        async with self._operation(principal, "write", f"vector://{name}/") as op:
            checked = await self.files.check(op, name, files) if files else None
            if not self._embedder.dimensions:  # only the model itself can tell
                await self._embedder.embed(["dimensions"])
            values = {
                "id": name,
                "tenant": principal.tenant,
                "name": name,
                "embedding_model": self._embedder.model,
                "dimensions": self._embedder.dimensions,
                "engine": self._engine.name,
                "label": terms.label or "",
                "description": terms.description,
                "metadata": terms.metadata,
                "expires_days": terms.expires_days,
            }
            async with self._control.begin() as tx:
                await stores.admit(tx, principal.tenant, name)
                await tx.execute(insert(vector_stores).values(**values))
                await op.journal(tx)
                if checked is not None:
                    await self.files.begin(tx, await self._find(principal, name, tx), checked)
            if checked is not None:
                self.files.announce()
            return await self._load(principal, name)

    async def get(self, principal: Principal, store: str) -> StoreRecord:
        """Return one store.

        Raises:
            NotFound: there is none in this tenant.
        """
        name = await self._name(principal, "read", store)
        async with self._operation(principal, "read", policy.Listing(f"vector://{name}/")):
            return await self._load(principal, name)

    async def list(self, principal: Principal, paging: Paging) -> Page[StoreRecord]:
        """Return a page of the stores that the caller may see something of, by creation.

        Raises:
            UnknownCursor: see `Paging`.
        """
        shown = policy.scope(principal, "read", "vector").within("vector://")
        mine = and_(vector_stores.c.tenant == principal.tenant, _within(shown))
        async with (
            self._operation(principal, "read", policy.Listing("vector://")),
            self._control.connect() as tx,
        ):
            query = select(*_COLUMNS).where(mine)
            at, name = vector_stores.c.created_at, vector_stores.c.id
            rows, more = await page_of(tx, query, at, name, paging)
            return Page(await _records(tx, rows), more)

    async def update(self, principal: Principal, store: str, change: StoreChange) -> StoreRecord:
        """Change what is known of a store; that is a use of it.

        Raises:
            NotFound: there is none in this tenant.
        """
        name = await self._name(principal, "write", store)
        async with self._operation(principal, "write", f"vector://{name}/") as op:
            async with self._control.begin() as tx:
                found = await self._find(principal, name, tx)
                await stores.hold_store(tx, found)
                put = update(vector_stores).where(vector_stores.c.id == found.id)
                await tx.execute(put.values(**change.values, last_active_at=func.now()))
                await op.journal(tx)
            return await self._load(principal, name)

    async def delete(self, principal: Principal, store: str) -> str:
        """Delete a store with all that was read into it, and return its id; the files themselves stay.

        Raises:
            NotFound: there is none in this tenant.
        """
        found = await self._find(principal, await self._name(principal, "write", store))
        if not (await self._vectors.delete_store(principal, found.name))["deleted"]:
            raise _unknown(store)
        return found.id

    async def search(
        self, principal: Principal, store: str, queries: Sequence[str], **how: Any
    ) -> list[VectorResult]:
        """Return the passages that fit any of several queries, best first; `how` is as in `VectorService.search`.

        Raises:
            NotFound: there is no such store, or it has expired. InvalidInput: an argument is malformed.
        """
        best: dict[tuple[str, int], VectorResult] = {}
        for query in queries:
            for passage in (await self._vectors.search(principal, store, query, **how))["results"]:
                place = passage["document"], passage["chunk"]
                if place not in best or best[place]["score"] < passage["score"]:
                    best[place] = passage
        return sorted(best.values(), key=lambda passage: -passage["score"])

    async def leave_all(self, principal: Principal, file: str) -> None:
        """Take a file out of every store from which the caller may take it."""
        held = select(file_rows.holding(principal.tenant, file).subquery().c.store)
        async with self._control.connect() as tx:
            found = await tx.execute(
                select(vector_stores.c.name).where(vector_stores.c.id.in_(held))
            )
            names = list(found.scalars())
        for name in names:
            if policy.allows(principal, "write", f"vector://{name}/{file}"):
                await self.files.discard(principal, name, file)

    async def leave_expired(self, at: Address) -> None:
        """Take a file whose time is over out of every store of its tenant; other objects are in none."""
        if at.bucket == FILES:
            await self.leave_all(Principal(at.tenant, "", OWNER_SCOPES), at.key)

    async def _find(
        self, principal: Principal, store: str, tx: AsyncConnection | None = None
    ) -> Store:
        """Return a store, one that has expired too."""
        if tx is None:
            async with self._control.connect() as own:
                return await self._find(principal, store, own)
        found = await stores.find_store(tx, principal.tenant, store)
        if found is None:
            raise _unknown(store)
        stores.require_engine(found, self._engine.name)
        return found

    async def _load(self, principal: Principal, name: str) -> StoreRecord:
        own = and_(vector_stores.c.tenant == principal.tenant, vector_stores.c.name == name)
        async with self._control.connect() as tx:
            rows = (await tx.execute(select(*_COLUMNS).where(own))).all()
            if not rows:
                raise _unknown(name)
            return (await _records(tx, rows))[0]


async def _records(tx: AsyncConnection, rows: Sequence[Row[Any]]) -> list[StoreRecord]:
    numbers = await file_rows.counts(tx, {row.id: row.dimensions for row in rows})
    return [_record(row, numbers) for row in rows]


def _record(row: Row[Any], numbers: Mapping[str, tuple[FileCounts, int]]) -> StoreRecord:
    counts, used = numbers[row.id]
    return StoreRecord(
        id=row.id,
        label=row.name if row.label is None else row.label,
        description=row.description,
        metadata=row.metadata,
        created_at=row.created_at,
        last_active_at=row.last_active_at,
        expires_days=row.expires_days,
        expires_at=row.expires_at,
        expired=row.expired,
        counts=counts,
        usage_bytes=used,
    )


def _within(prefixes: Sequence[str] | None) -> ColumnElement[bool]:
    """Return the condition on stores that they may hold something which begins with a prefix `STORE/…`."""
    if prefixes is None:
        return and_(True)
    name = vector_stores.c.name
    shown: list[ColumnElement[bool]] = []
    for prefix in prefixes:
        store, slash, _ = prefix.partition("/")
        shown.append(name == store if slash else func.starts_with(name, store))
    return or_(False, *shown)


def _unknown(store: str) -> NotFound:
    return NotFound(f"No vector store found with id '{store[:80]}'.", param="store")
