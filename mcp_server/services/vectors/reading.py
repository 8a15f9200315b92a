"""Reading vector stores: search, one document, lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.ingest.tokenise import tokenise
from mcp_server.operation import Operations
from mcp_server.services import names
from mcp_server.services.vectors import content, rows, stores
from mcp_server.services.vectors.access import StoreAccess, parsed_filter, visible
from mcp_server.services.vectors.indexing import Indexer
from mcp_server.services.vectors.results import (
    Choice,
    VectorDocument,
    VectorPage,
    VectorResults,
    best_passages,
    item,
)
from mcp_server.services.vectors.turns import Turns
from mcp_server.storage.vectors import Query, Restriction, Store, VectorEngine
from mcp_server.storage.vectors.ranking import EVEN, Weights

Mode = Literal["hybrid", "dense", "text"]
MODES: tuple[Mode, ...] = get_args(Mode)
MAX_K = 100
MAX_WEIGHT = 1000.0
# How deep each ranking goes at least: fusion needs to see more than it returns.
MIN_DEPTH = 50
# How many queries an upstream embeds at once: waiting for it keeps no processor busy here.
UPSTREAM_EMBEDDINGS_AT_ONCE = 32


def queries_at_once(embeddings_url: str | None) -> int | None:
    """Return how many queries are embedded at once; None: each within its search's turn, by the embedded model."""
    return None if embeddings_url is None else UPSTREAM_EMBEDDINGS_AT_ONCE


class Reading(StoreAccess):
    """The methods that change nothing."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        engine: VectorEngine,
        indexer: Indexer,
        embeddings_at_once: int | None = None,
    ) -> None:
        super().__init__(operation, control, engine)
        self._indexer = indexer
        self._embedding = (
            None
            if embeddings_at_once is None
            else Turns(embeddings_at_once, embeddings_at_once // 2)
        )
        self._searching = Turns()

    async def search(
        self,
        principal: Principal,
        store: str,
        query: str,
        *,
        k: int = 10,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the contract's name
        mode: Mode = "hybrid",
        weights: Mapping[str, float] | None = None,
        min_score: float | None = None,
    ) -> VectorResults:
        """Return up to `k` passages, best first.

        `weights` says how much each of the rankings `dense` and `text` counts in mode hybrid, 1 if
        it is not named. `min_score` leaves out what scores less; what a score is depends on the mode.

        Raises:
            Conflict: the store was filled with another embedding model, and the mode is not text.
            InvalidInput: an argument is malformed. NotFound: there is no such store.
            LimitExceeded: too many searches of the tenant wait already.
        """
        asked = content.checked_query(query)
        choice = _choice(k, mode, weights, min_score)
        condition = parsed_filter(filter)
        name = await self._name(principal, "read", store)
        async with self._operation(principal, "read", policy.Listing(f"vector://{name}/")):
            found = await self._find(principal, name)
            await self._note_use(found)
            vector = None
            if self._embedding is not None and mode != "text":
                async with self._embedding.turn(principal.tenant):
                    vector = await self._indexer.embed_query(found, asked)
            # One turn for all that keeps processors busy here: a tenant that embeds its next query while
            # it looks for the last one would take two of them.
            async with self._searching.turn(principal.tenant):
                if vector is None and mode != "text":
                    vector = await self._indexer.embed_query(found, asked)
                wanted = Query(
                    depth=max(MIN_DEPTH, 2 * k),
                    vector=vector,
                    tokens=None if mode == "dense" else tokenise(asked),
                    restriction=Restriction(condition, visible(principal, "read", name)),
                )
                results = await self._engine.search(found, wanted, best_passages(found, choice))
        return VectorResults(results=results)

    async def _note_use(self, store: Store) -> None:
        if store.idle:
            async with self._control.begin() as tx:
                await stores.note_use(tx, store)

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
        size, after = names.page_size(limit), names.decode_cursor(cursor)
        condition = parsed_filter(filter)
        name = await self._name(principal, "read", store)
        within = Restriction(condition, visible(principal, "read", name))
        async with self._operation(principal, "read", policy.Listing(f"vector://{name}/")):
            async with self._control.connect() as tx:
                found = await self._find(principal, name, tx)
                listed = await rows.page(tx, found, within, after, size + 1)
        items = [item(row) for row in listed[:size]]
        more = len(listed) > size
        return VectorPage(
            items=items, next_cursor=names.encode_cursor(items[-1]["document"]) if more else None
        )


def _choice(
    k: int, mode: str, weights: Mapping[str, float] | None, min_score: float | None
) -> Choice:
    if not 1 <= k <= MAX_K:
        raise InvalidInput(f"k: {k} is not within 1-{MAX_K}", param="k")
    if mode not in MODES:
        raise InvalidInput(f"mode: {mode!r:.40} is not one of {', '.join(MODES)}", param="mode")
    if min_score is not None and not math.isfinite(min_score):
        raise InvalidInput("min_score: it is not a finite number", param="min_score")
    return Choice(mode, k, EVEN if weights is None else _weights(mode, weights), min_score)


def _weights(mode: str, given: Mapping[str, float]) -> Weights:
    if mode != "hybrid":
        raise InvalidInput(
            f"weights: mode {mode} has one ranking only; leave them out, or use mode hybrid",
            param="weights",
        )
    for name, value in given.items():
        if name not in {"dense", "text"}:
            raise InvalidInput(
                f"weights.{name!s:.40}: unknown; known are dense and text", param="weights"
            )
        if isinstance(value, bool) or not 0 <= value <= MAX_WEIGHT:
            raise InvalidInput(
                f"weights.{name}: {value!r:.40} is not within 0-{MAX_WEIGHT:.0f}", param="weights"
            )
    if given and not any(given.get(name, 1) for name in ("dense", "text")):
        raise InvalidInput("weights: both are 0; give one of them a say", param="weights")
    return Weights(given.get("dense", 1.0), given.get("text", 1.0))
