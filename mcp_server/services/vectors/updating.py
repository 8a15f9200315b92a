"""Changes the metadata of documents: their vectors stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import AppError, Conflict, InvalidInput
from mcp_server.operation import Operation
from mcp_server.services.vectors import content, rows, stores
from mcp_server.services.vectors.content import Document
from mcp_server.services.vectors.indexing import Indexer, uri_of
from mcp_server.services.vectors.results import VectorUpdated
from mcp_server.storage.sql.schema import encode_json
from mcp_server.storage.vectors import Batch, KeepsFilterFields, Restriction, Store

MAX_UPDATED = 1000
UPDATE_TRIES = 4


async def change_metadata(
    indexer: Indexer,
    op: Operation,
    store: str,
    patch: Mapping[str, Any],
    within: Restriction,
    document: str | None,
    *,
    whole: bool = False,
) -> VectorUpdated:
    """Merge metadata into one document's, or into that of all that fit; with a key, once.

    `whole` puts it in the place of all that was there.

    Raises:
        Conflict: others keep changing the same documents.
    """
    done = await op.look(indexer.control, "update")
    if done is not None:
        return done
    change = MetadataUpdate(indexer, store, patch, within, document, whole=whole)
    for left in reversed(range(UPDATE_TRIES)):
        try:
            await change.prepare(op)
            async with indexer.control.begin() as tx:
                done = await op.replay(tx, "update")
                if done is None:
                    answer = VectorUpdated(updated=await change.apply(tx, op))
                    return await op.remember(tx, answer, "update")
        except Conflict:
            await change.abandon()
            if not left:
                raise
        except AppError:
            await change.abandon()
            raise
        else:
            await change.abandon()
            return done
    raise AssertionError("every try ends")


class MetadataUpdate:
    """One change to the metadata of one document, or of all that fit a restriction.

    Members of `patch` replace those of the same key, null removes; what is not named stays, unless
    the patch is `whole`.
    """

    def __init__(
        self,
        indexer: Indexer,
        store: str,
        patch: Mapping[str, Any],
        within: Restriction,
        document: str | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self._indexer = indexer
        self._store = store
        self._patch = patch
        self._within = within
        self._document = document
        self._whole = whole
        # Of an engine that holds metadata: new entries for each document as it was read.
        self._prepared: dict[tuple[str, int], tuple[Document, Batch]] = {}

    async def prepare(self, op: Operation) -> None:
        """Copy entries where the engine holds the metadata; a call before it is given back first."""
        await self.abandon()
        indexer = self._indexer
        if not isinstance(indexer.engine, KeepsFilterFields):
            return
        async with indexer.control.connect() as tx:
            tenant = op.principal.tenant
            store = await stores.require_store(tx, tenant, self._store, indexer.engine.name)
            found = await rows.page(tx, store, self._within, None, MAX_UPDATED + 1, self._document)
        _require_few(len(found))
        for row in found:
            metadata = self._patched(row)
            if _differ(metadata, row.metadata):
                await self._copy(op, indexer.engine, store, row, metadata)

    async def _copy(
        self,
        op: Operation,
        engine: KeepsFilterFields,
        store: Store,
        row: Row[Any],
        metadata: dict[str, Any],
    ) -> None:
        indexer = self._indexer
        async with indexer.control.connect() as tx:
            chunks = await rows.chunks_of(tx, store, row.document)
        vectors = await engine.vectors(store, chunks[0].id) if chunks else {}
        if any(chunk.id not in vectors for chunk in chunks):
            return  # replaced meanwhile: `apply` finds out
        text = "".join(chunk.body for chunk in chunks)
        places = [
            [each.start_at, each.end_at, each.page, each.heading, each.lead_at] for each in chunks
        ]
        new = Document(
            row.document,
            text,
            metadata,
            content.cut_again(text, places),
            row.title,
            row.source,
            row.media_type,
        )
        copied = [vectors[chunk.id] for chunk in chunks]
        batch = await indexer.draw(op, store.name, new, copied, store.embedding_model)
        self._prepared[row.document, row.version] = new, batch
        await indexer.engine.prepare(batch)

    async def apply(self, tx: AsyncConnection, op: Operation) -> int:
        """Change and journal each document; return how many fit.

        Raises:
            Conflict: one of them was changed since `prepare` read it.
        """
        indexer = self._indexer
        store = await stores.require_store(
            tx, op.principal.tenant, self._store, indexer.engine.name
        )
        await stores.hold_store(tx, store)
        found = await rows.lock_documents(tx, store, self._within, self._document)
        _require_few(len(found))
        changed = [row for row in found if _differ(self._patched(row), row.metadata)]
        if isinstance(indexer.engine, KeepsFilterFields):
            for row in changed:
                await self._replace(tx, op, row)
            return len(found)
        await indexer.keep(tx, store, [row.document for row in changed])
        for row in changed:
            version = await rows.put_metadata(tx, store, row.document, self._patched(row))
            uri = uri_of(store, row.document)
            await op.journal(tx, uri=uri, version=version, prev_version=row.version)
        return len(found)

    async def _replace(self, tx: AsyncConnection, op: Operation, row: Row[Any]) -> None:
        prepared = self._prepared.get((row.document, row.version))
        if prepared is None:
            raise Conflict(f"document {row.document!r} has just been changed; try again")
        new, batch = prepared
        await self._indexer.put(tx, op, batch, new, row.version)

    async def abandon(self) -> None:
        """Give back what was copied."""
        for _, batch in self._prepared.values():
            await self._indexer.engine.discard(batch)
        self._prepared.clear()

    def _patched(self, row: Row[Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {} if self._whole else row.metadata
        merged = {**kept, **self._patch}
        return content.checked_metadata(
            {key: value for key, value in merged.items() if value is not None}
        )


def _differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two are not the same JSON: to Python 1, 1.0 and true are equal, to a filter they are not."""
    return encode_json(one) != encode_json(other)


def _require_few(count: int) -> None:
    if count > MAX_UPDATED:
        raise InvalidInput(
            f"filter: it fits more than the {MAX_UPDATED} documents that one call changes; narrow it",
            param="filter",
        )
