"""Vector stores: documents in, passages out, by meaning, by words or by both."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Literal, get_args

import anyio.to_thread
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import filters, policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.ingest.embed import Embedder
from mcp_server.ingest.tokenise import tokenise
from mcp_server.operation import Operation, Operations
from mcp_server.policy import Verb
from mcp_server.runs.fence import parse_key
from mcp_server.services import names
from mcp_server.services.vectors import content, rows
from mcp_server.services.vectors.index import Indexer, Progress
from mcp_server.services.vectors.results import (
    VectorAdded,
    VectorDeleted,
    VectorDocument,
    VectorPage,
    VectorResults,
    best_passages,
    item,
)
from mcp_server.services.vectors.rows import Draft
from mcp_server.storage.vectors import Query, Restriction, Store, VectorEngine

Mode = Literal["hybrid", "dense", "text"]
MODES: tuple[Mode, ...] = get_args(Mode)
MAX_K = 100
# How deep each ranking goes at least: fusion needs to see more than it returns.
MIN_DEPTH = 50


class VectorService:
    """Every method is one operation on `vector://STORE/DOCUMENT`; a store is named or `vs_…`."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        engine: VectorEngine,
        embedder: Embedder,
    ) -> None:
        self._operation = operation
        self._control = control
        self._engine = engine
        self._indexer = Indexer(control, engine, embedder)

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
            Conflict: the store was filled with another embedding model.
            InvalidInput: an argument is malformed or too large.
            NotFound: there is no store of that `vs_` id.
        """
        text = content.checked_text(text)
        wanted = content.checked_metadata(metadata)
        given = (
            names.key(document, "document")
            if document is not None
            else _new_document(idempotency_key)
        )
        name = await self._name(principal, "write", store)
        uri = f"vector://{name}/{given}"
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            done = await op.look(self._control)
            if done is not None:
                return done
            async with self._control.connect() as tx:
                known = await rows.find_store(tx, principal.tenant, name)
                present = known and await rows.find_document(tx, known, given)
            digest = content.fingerprint(text)
            if present and present.sha256 == digest and _same(present.metadata, wanted):
                return await self._indexer.keep(op, name, given, present.chunks)
            pieces = await anyio.to_thread.run_sync(content.pieces, text, abandon_on_cancel=True)
            draft = Draft(given, wanted, digest, pieces)
            return await self._indexer.add(op, known, name, draft, progress)

    async def search(
        self,
        principal: Principal,
        store: str,
        query: str,
        *,
        k: int = 10,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the contract's name
        mode: Mode = "hybrid",
    ) -> VectorResults:
        """Return up to `k` passages, best first.

        Raises:
            Conflict: the store was filled with another embedding model, and the mode is not text.
            InvalidInput: an argument is malformed. NotFound: there is no such store.
        """
        asked = content.checked_query(query)
        if not 1 <= k <= MAX_K:
            raise InvalidInput(f"k: {k} is not within 1-{MAX_K}", param="k")
        if mode not in MODES:
            raise InvalidInput(f"mode: {mode!r:.40} is not one of {', '.join(MODES)}", param="mode")
        condition = _filter(filter)
        name = await self._name(principal, "read", store)
        async with self._operation(principal, "read", policy.Listing(f"vector://{name}/")):
            found = await self._find(principal, name)
            vector = None if mode == "text" else await self._indexer.embed_query(found, asked)
            wanted = Query(
                depth=max(MIN_DEPTH, 2 * k),
                vector=vector,
                tokens=None if mode == "dense" else tokenise(asked),
                restriction=Restriction(condition, _visible(principal, "read", name)),
            )
            results = await self._engine.search(found, wanted, best_passages(found, mode, k))
        return VectorResults(results=results)

    async def get(self, principal: Principal, store: str, document: str) -> VectorDocument:
        """Return one document with its whole text.

        Raises:
            NotFound: there is no such store or document.
        """
        given = names.key(document, "document")
        name = await self._name(principal, "read", store)
        async with self._operation(principal, "read", f"vector://{name}/{given}"):
            # One snapshot: the text is put together from the chunks of one version.
            snapshots = self._control.execution_options(isolation_level="REPEATABLE READ")
            async with snapshots.connect() as tx:
                found = await self._find(principal, name, tx)
                row = await rows.find_document(tx, found, given)
                if row is None:
                    raise NotFound(
                        f"document {given!r} does not exist in vector store {name!r}",
                        param="document",
                    )
                text = await rows.body(tx, found, given)
        return VectorDocument(store=name, text=text, **item(row))

    async def list(
        self,
        principal: Principal,
        store: str,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the contract's name
        limit: int | None = None,
        cursor: str | None = None,
    ) -> VectorPage:
        """Return a page of a store's documents in byte order of their ids.

        Raises:
            InvalidInput: an argument is malformed. NotFound: there is no such store.
        """
        size, after, condition = (
            names.page_size(limit),
            names.decode_cursor(cursor),
            _filter(filter),
        )
        name = await self._name(principal, "read", store)
        within = Restriction(condition, _visible(principal, "read", name))
        async with self._operation(principal, "read", policy.Listing(f"vector://{name}/")):
            async with self._control.connect() as tx:
                found = await self._find(principal, name, tx)
                listed = await rows.page(tx, found, within, after, size + 1)
        items = [item(row) for row in listed[:size]]
        more = len(listed) > size
        return VectorPage(
            items=items, next_cursor=names.encode_cursor(items[-1]["document"]) if more else None
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
        if (document is None) == (filter is None):
            raise InvalidInput(
                "document: give either document or filter, not both and not none of them",
                param="document",
            )
        given = None if document is None else names.key(document, "document")
        condition = _filter(filter)
        name = await self._name(principal, "write", store)
        # One document is decided by its own URI, of many only those within the caller's scope go.
        visible = _visible(principal, "write", name) if given is None else None
        base = f"vector://{name}/"
        uri = policy.Listing(base) if given is None else base + given
        async with self._operation(principal, "write", uri, key=idempotency_key) as op:
            async with self._control.begin() as tx:
                done = await op.replay(tx, "delete")
                if done is None:
                    within = Restriction(condition, visible)
                    done = await self._delete(tx, op, name, within, given)
                    await op.remember(tx, done, "delete")
        return VectorDeleted(deleted=done["deleted"])

    async def _delete(
        self, tx: AsyncConnection, op: Operation, name: str, within: Restriction, given: str | None
    ) -> VectorDeleted:
        found = await self._find(op.principal, name, tx)
        gone = await rows.delete_documents(tx, found, within, given)
        await self._engine.retract(tx, found, list(gone))
        for each, version in gone.items():
            uri = f"vector://{name}/{each}"
            await op.journal(tx, uri=uri, verb="delete", prev_version=version)
        return VectorDeleted(deleted=len(gone))

    async def _name(self, principal: Principal, verb: Verb, store: str) -> str:
        """Return the name under which a store is decided about and journalled."""
        if "/" in store:  # `vector://a/b/c` would name two documents
            raise InvalidInput(f"store: {store[:80]!r} holds a /; leave it out", param="store")
        names.container(store, "store")
        if not store.startswith(rows.STORE_ID):
            return store
        async with self._operation(principal, verb, policy.Listing("vector://")):
            return (await self._find(principal, store)).name

    async def _find(
        self, principal: Principal, store: str, tx: AsyncConnection | None = None
    ) -> Store:
        if tx is None:
            async with self._control.connect() as own:
                return await self._find(principal, store, own)
        found = await rows.find_store(tx, principal.tenant, store)
        if found is None:
            raise NotFound(f"vector store {store!r} does not exist", param="store")
        return found


def _new_document(idempotency_key: str | None) -> str:
    """Return an id for a document without one; a repeated step gets the same again."""
    if idempotency_key is None:
        return f"doc_{secrets.token_hex(12)}"
    step = parse_key(idempotency_key)
    identity = step.key if step is not None else idempotency_key
    return f"doc_{sha256(identity.encode()).hexdigest()[:24]}"


def _filter(raw: Mapping[str, Any] | None) -> filters.Filter | None:
    return None if raw is None else filters.parse(raw)


def _visible(principal: Principal, verb: Verb, store: str) -> tuple[str, ...] | None:
    return policy.scope(principal, verb, "vector").within(f"vector://{store}/")


def _same(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Compare as JSON: to Python, True is 1."""
    return json.dumps(stored, sort_keys=True) == json.dumps(wanted, sort_keys=True)
