"""Writes of documents as drafts: embedded beforehand, applied in a transaction that may hold others."""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import anyio.to_thread
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import Conflict
from mcp_server.ingest.measure import Measure
from mcp_server.ingest.parsed import Section
from mcp_server.operation import Operation
from mcp_server.services.vectors import content, rows, stores
from mcp_server.services.vectors.content import Document
from mcp_server.services.vectors.indexing import Indexer, Progress, Vectors, require_version
from mcp_server.services.vectors.results import VectorAdded, VectorDeleted
from mcp_server.services.writes import Record
from mcp_server.storage.vectors import Batch, Restriction


class WriteDraft:
    """Puts one document into a store, in the place of the one of its name.

    The same text with the same metadata is not indexed again, unless `anew`. `vectors` are those of
    `model` for the pieces of `new`, if they are known already; else they are cut and embedded. `unchanged` is the
    number of chunks of a document that was found as wanted when the write was decided.
    """

    verb: Literal["write"] = "write"
    effect = "write"

    def __init__(
        self,
        indexer: Indexer,
        store: str,
        new: Document,
        *,
        expected: int | None = None,
        sections: Sequence[Section] = (),
        measure: Measure | None = None,
        progress: Progress | None = None,
        vectors: Vectors | None = None,
        model: str | None = None,
        unchanged: int | None = None,
        anew: bool = False,
    ) -> None:
        self._indexer = indexer
        self._store = store
        self._new = new
        self._anew = anew
        self._expected = expected
        self._sections, self._measure = sections, measure
        self._progress = progress
        self._vectors = vectors
        self._model = model
        self._batch: Batch | None = None
        self._unchanged = unchanged
        # The version of the document that is there already, as wanted.
        self._seen: int | None = None

    @property
    def uri(self) -> str:
        return f"vector://{self._store}/{self._new.name}"

    async def prepare(self, op: Operation) -> None:
        if self._unchanged is not None:
            return
        indexer, new = self._indexer, self._new
        known = await indexer.find(op.principal.tenant, self._store)
        may_be_there = self._expected is None and self._vectors is None and not self._anew
        if may_be_there and known is not None:
            async with indexer.control.connect() as tx:
                present = await rows.find_document(tx, known, new.name)
            if present is not None and same(present, new):
                self._seen, self._unchanged = present.version, present.chunks
                return
        if not new.pieces:
            pieces = await anyio.to_thread.run_sync(
                content.pieces, new.text, self._sections, self._measure, abandon_on_cancel=True
            )
            new = self._new = replace(new, pieces=pieces)
        if self._vectors is None:
            self._vectors = await indexer.embed(known, new.pieces, self._progress)
        # Only now: a model that is not configured is known by what it answered first.
        self._model = self._model or indexer.model.model
        self._batch = await indexer.draw(op, self._store, new, self._vectors, self._model)
        await indexer.engine.prepare(self._batch)

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        if self._seen is not None:
            await self._require_seen(tx, op, self._seen)
        chunks = self._unchanged
        if chunks is None:
            assert self._batch is not None, "prepare comes first"  # noqa: S101
            await self._indexer.put(tx, op, self._batch, self._new, self._expected)
            chunks = len(self._batch.entries)
        added = VectorAdded(store=self._store, document=self._new.name, chunks=chunks)
        return cast("dict[str, Any]", added)

    async def _require_seen(self, tx: AsyncConnection, op: Operation, version: int) -> None:
        engine, tenant = self._indexer.engine.name, op.principal.tenant
        store = await stores.require_store(tx, tenant, self._store, engine)
        row = await rows.find_document(tx, store, self._new.name)
        if row is None or (row.version != version and not same(row, self._new)):
            raise Conflict(
                f"document {self._new.name!r} has just been changed by another call; try again",
                param="document",
            )

    async def abandon(self) -> None:
        if self._batch is not None:
            await self._indexer.engine.discard(self._batch)

    def record(self) -> Record:
        new = self._new
        written: dict[str, Any] = {
            "store": self._store,
            "document": new.name,
            "text": new.text,
            "metadata": new.metadata,
            "title": new.title,
            "source": new.source,
            "media_type": new.media_type,
        }
        if self._unchanged is not None:
            written["unchanged"] = self._unchanged
        else:
            written["places"] = content.places_of(new.pieces)
            written["model"] = self._model
            written["vectors"] = [_packed(vector) for vector in self._vectors or []]
        return Record(written)


class DeleteDraft:
    """Deletes one document."""

    verb: Literal["write"] = "write"
    effect = "delete"

    def __init__(
        self, indexer: Indexer, store: str, document: str, expected: int | None = None
    ) -> None:
        self._indexer = indexer
        self._store, self._document = store, document
        self._expected = expected

    @property
    def uri(self) -> str:
        return f"vector://{self._store}/{self._document}"

    async def prepare(self, op: Operation) -> None:
        """Nothing here is slow."""

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        indexer = self._indexer
        tenant, engine = op.principal.tenant, indexer.engine.name
        store = await stores.require_store(tx, tenant, self._store, engine)
        await stores.hold_store(tx, store)  # first, as everybody does: its deletion locks documents
        there = await rows.lock_documents(tx, store, Restriction(), self._document)
        require_version(self._document, there[0].version if there else 0, self._expected)
        if there:
            await indexer.remove(tx, op, store, [(self._document, there[0].version)])
        return cast("dict[str, Any]", VectorDeleted(deleted=len(there)))

    async def abandon(self) -> None:
        """There is nothing to give back."""

    def record(self) -> Record:
        return Record({"store": self._store, "document": self._document, "delete": True})


def recorded(indexer: Indexer, record: Record) -> WriteDraft | DeleteDraft:
    """Return the draft of a record, without its conditions; it needs no model."""
    kept = record.content
    if kept.get("delete"):
        return DeleteDraft(indexer, kept["store"], kept["document"])
    vectors = kept.get("vectors")
    new = Document(
        kept["document"],
        kept["text"],
        kept["metadata"],
        content.cut_again(kept["text"], kept.get("places", ())),
        kept["title"],
        kept["source"],
        kept["media_type"],
    )
    unpacked = None if vectors is None else [_unpacked(vector) for vector in vectors]
    return WriteDraft(
        indexer,
        kept["store"],
        new,
        vectors=unpacked,
        model=kept.get("model"),
        unchanged=kept.get("unchanged"),
    )


def same(row: Any, new: Document) -> bool:
    """Tell whether a document's row is what a write would make of it."""
    stored = (row.sha256, row.title, row.source, row.media_type)
    wanted = (new.sha256, new.title, new.source, new.media_type)
    return stored == wanted and _as_json(row.metadata) == _as_json(new.metadata)


def _as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)  # to Python, True is 1


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()


def _unpacked(packed: str) -> list[float]:
    values = array("f")
    values.frombytes(base64.b64decode(packed))
    return list(values)
