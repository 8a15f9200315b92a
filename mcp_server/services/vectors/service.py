"""Vector stores: documents in, passages out, by meaning, by words or by both."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, InvalidInput
from mcp_server.ingest.embed import Embedder
from mcp_server.ingest.measure import Measure
from mcp_server.ingest.parsed import Section
from mcp_server.operation import Operation, Operations
from mcp_server.runs.fence import parse_key
from mcp_server.services import names
from mcp_server.services.vectors import content, rows, stores, versions
from mcp_server.services.vectors.access import parsed_filter, visible
from mcp_server.services.vectors.content import Document
from mcp_server.services.vectors.drafts import DeleteDraft, WriteDraft, recorded
from mcp_server.services.vectors.indexing import Indexer, Progress
from mcp_server.services.vectors.reading import Reading
from mcp_server.services.vectors.results import (
    VectorAdded,
    VectorDeleted,
    VectorStoreDeleted,
    VectorUpdated,
)
from mcp_server.services.vectors.updating import change_metadata
from mcp_server.services.writes import Draft, Record, carry_out
from mcp_server.storage.vectors import Restriction, VectorEngine


class VectorService(Reading):
    """Every method is one operation on `vector://STORE/DOCUMENT`; a store is named or `vs_…`.

    What a write replaces is kept for undo if `undo_days` is not 0.
    """

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        engine: VectorEngine,
        embedder: Embedder,
        *,
        undo_days: float = 0,
        embeddings_at_once: int | None = None,
    ) -> None:
        indexer = Indexer(control, engine, embedder, keeps=undo_days > 0)
        super().__init__(operation, control, engine, indexer, embeddings_at_once)

    async def add(
        self,
        principal: Principal,
        store: str,
        text: str,
        *,
        document: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        progress: Progress | None = None,
    ) -> VectorAdded:
        """Index a text as one document, in the place of the one of that id; all of it or nothing.

        The store comes into being with its first document. The same text with the same metadata is
        not indexed again. `progress` hears how many chunks are embedded, of how many.

        Raises:
            Conflict: the store was filled with another embedding model, or is held by another engine.
            InvalidInput: an argument is malformed or too large.
            NotFound: there is no store of that `vs_` id.
        """
        given = document if document is not None else _new_document(idempotency_key)
        draft = await self.draft_write(
            principal, store, text, document=given, metadata=metadata, progress=progress
        )
        async with self._operation(principal, "write", draft.uri, key=idempotency_key) as op:
            return cast("VectorAdded", await carry_out(self._control, op, draft))

    async def draft_write(
        self,
        principal: Principal,
        store: str,
        text: str,
        *,
        document: str,
        metadata: Mapping[str, Any] | None = None,
        title: str | None = None,
        source: str | None = None,
        media_type: str | None = None,
        sections: Sequence[Section] = (),
        measure: Measure | None = None,
        progress: Progress | None = None,
        anew: bool = False,
    ) -> Draft:
        """Return the draft of a document; `sections` and `measure` say how it is cut into chunks.

        `anew` indexes it also if the same text with the same metadata is there.

        Raises:
            InvalidInput: an argument is malformed or too large.
            NotFound: there is no store of that `vs_` id.
        """
        new = Document(
            names.key(document, "document"),
            content.checked_text(text),
            content.checked_metadata(metadata),
            title=content.checked_label(title, "title"),
            source=content.checked_label(source, "source"),
            media_type=content.checked_label(media_type, "media_type"),
        )
        name = await self._name(principal, "write", store)
        return WriteDraft(
            *(self._indexer, name, new),
            sections=sections,
            measure=measure,
            progress=progress,
            anew=anew,
        )

    async def draft_delete(self, principal: Principal, store: str, document: str) -> Draft:
        """Return the draft that deletes one document.

        Raises:
            InvalidInput: an argument is malformed. NotFound: there is no store of that `vs_` id.
        """
        given = names.key(document, "document")
        return DeleteDraft(self._indexer, await self._name(principal, "write", store), given)

    async def draft_restore(
        self, principal: Principal, uri: str, version: int | None, expected: int
    ) -> Draft:
        """Return the draft that makes an earlier version current again, or deletes if it is None.

        It is embedded again; the metadata and the places of the chunks come back as they were.

        Raises:
            Conflict: the version is not kept any more. NotFound: the store is gone.
        """
        name, _, document = uri.removeprefix("vector://").partition("/")
        if not document:
            raise Conflict("a deleted vector store cannot be brought back", param="change")
        policy.require(principal, "write", uri)
        if version is None:
            return DeleteDraft(self._indexer, name, document, expected)
        async with self._control.connect() as tx:
            found = await self._find(principal, name, tx)
            kept = await versions.find(tx, found, document, version)
        if kept is None:
            raise Conflict(
                f"version {version} of document {document!r} is not kept any more", param="change"
            )
        old = Document(
            document,
            kept.body,
            kept.metadata,
            content.cut_again(kept.body, kept.pieces),
            kept.title,
            kept.source,
            kept.media_type,
        )
        return WriteDraft(self._indexer, name, old, expected=expected)

    async def draft_recorded(self, principal: Principal, uri: str, record: Record) -> Draft:
        """Return the draft of a record that another process prepared; it needs no model."""
        draft = recorded(self._indexer, record)
        policy.require(principal, draft.verb, draft.uri)
        if draft.uri != uri:
            raise InvalidInput(f"the record is of {draft.uri}, not of {uri}")
        return draft

    async def update(
        self,
        principal: Principal,
        store: str,
        metadata: Mapping[str, Any],
        *,
        document: str | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the contract's name
        whole: bool = False,
        idempotency_key: str | None = None,
    ) -> VectorUpdated:
        """Merge metadata into one document's, or into that of all that fit a filter; null removes.

        `whole` puts it in the place of all that was there. Nothing is embedded again. Tells how many documents fit.

        Raises:
            InvalidInput: neither or both are given, one is malformed, or over 1,000 documents fit.
            NotFound: there is no such store. Conflict: others keep changing the same documents.
        """
        given, within = self._which(document, filter)
        patch = content.checked_metadata(metadata)
        name = await self._name(principal, "write", store)
        uri, within = _addressed(principal, name, given, within)
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            return await change_metadata(
                *(self._indexer, op, name, patch, within, given), whole=whole
            )

    async def delete(
        self,
        principal: Principal,
        store: str,
        *,
        document: str | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the contract's name
        idempotency_key: str | None = None,
    ) -> VectorDeleted:
        """Delete one document, or all that fit a filter, and tell how many there were.

        Raises:
            InvalidInput: neither or both are given, or one is malformed.
            NotFound: there is no such store.
        """
        given, within = self._which(document, filter)
        name = await self._name(principal, "write", store)
        uri, within = _addressed(principal, name, given, within)
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            if given is not None:
                draft = DeleteDraft(self._indexer, name, given)
                return cast("VectorDeleted", await carry_out(self._control, op, draft))
            async with self._control.begin() as tx:
                done = await op.replay(tx, "delete")
                if done is None:
                    done = await self._delete(tx, op, name, within)
                    await op.remember(tx, done, "delete")
        return VectorDeleted(deleted=done["deleted"])

    async def _delete(
        self, tx: AsyncConnection, op: Operation, name: str, within: Restriction
    ) -> VectorDeleted:
        found = await self._find(op.principal, name, tx)
        await stores.hold_store(tx, found)
        gone = await rows.lock_documents(tx, found, within)
        await self._indexer.remove(tx, op, found, [(row.document, row.version) for row in gone])
        return VectorDeleted(deleted=len(gone))

    async def delete_store(
        self, principal: Principal, store: str, *, idempotency_key: str | None = None
    ) -> VectorStoreDeleted:
        """Delete a store with its documents and their earlier versions, and tell whether it was there.

        It cannot be undone.
        """
        name = await self._name(principal, "write", store)
        # A plain URI and no listing: the right to some documents is not the right to all.
        uri = f"vector://{name}/"
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            async with self._control.begin() as tx:
                done = await op.replay(tx, "delete")
                if done is not None:
                    return done
                found = await stores.find_store(tx, principal.tenant, name)
                if found is not None:
                    stores.require_engine(found, self._engine.name)
                    gone = await stores.delete_store(tx, found)
                    await self._engine.retract(tx, found, None)
                    if gone:
                        await op.journal(tx, verb="delete")
                answer = VectorStoreDeleted(deleted=found is not None)
                return await op.remember(tx, answer, "delete")

    def _which(
        self, document: str | None, raw: Mapping[str, Any] | None
    ) -> tuple[str | None, Restriction]:
        if (document is None) == (raw is None):
            raise InvalidInput(
                "document: give either document or filter, not both and not none of them",
                param="document",
            )
        given = None if document is None else names.key(document, "document")
        return given, Restriction(parsed_filter(raw))


def _addressed(
    principal: Principal, store: str, given: str | None, within: Restriction
) -> tuple[str, Restriction]:
    """Return the URI of an operation on one document or on many, and what it may reach.

    One document is decided by its own URI, of many only those within the caller's scope go.
    """
    base = f"vector://{store}/"
    if given is not None:
        return base + given, within
    return policy.Listing(base), Restriction(within.filter, visible(principal, "write", store))


def _new_document(idempotency_key: str | None) -> str:
    """Return an id for a document without one; a repeated step gets the same again."""
    if idempotency_key is None:
        return f"doc_{secrets.token_hex(12)}"
    step = parse_key(idempotency_key)
    identity = step.key if step is not None else idempotency_key
    return f"doc_{sha256(identity.encode()).hexdigest()[:24]}"
