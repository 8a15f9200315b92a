"""Vector engines: what every one of them must do, and the choice of one by its URL."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import ConfigurationError
from mcp_server.filters import Filter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Store:
    """A vector store as its row has it; ids are unique over all tenants."""

    id: str
    tenant: str
    name: str
    embedding_model: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What an engine holds of one chunk: a row of `chunks` has the same id and the text."""

    id: int
    tokens: Sequence[str]
    vector: Sequence[float]


@dataclass(frozen=True, slots=True)
class Restriction:
    """Which documents a search may see: those that fit the filter and begin with one of the prefixes.

    None means no restriction; no prefixes at all means nothing may be seen.
    """

    filter: Filter | None = None
    prefixes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A search: by vector, by tokens, or by both; up to `depth` hits for each."""

    depth: int
    vector: Sequence[float] | None = None
    tokens: Sequence[str] | None = None
    restriction: Restriction = Restriction()


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk's id with its score, higher is better: cosine similarity, or BM25."""

    id: int
    score: float


@dataclass(frozen=True, slots=True)
class Hits:
    """The hits by vector and by tokens, each best first, ties by id.

    `weight` is the sum of the weights of all terms that were asked for, those included that no chunk
    holds: about what a chunk scores that holds each of them once.
    """

    dense: tuple[Hit, ...] = ()
    text: tuple[Hit, ...] = ()
    weight: float = 0.0


Finish = Callable[[AsyncConnection, Hits], Awaitable[T]]


class VectorEngine(Protocol):
    """Holds ids, vectors, tokens and filter fields of chunks; the rows decide what exists.

    Every method must keep to the store and the tenant it is given, before anything is ranked.
    """

    async def prepare(
        self, store: Store, document: str, metadata: Mapping[str, Any], entries: Sequence[Entry]
    ) -> None:
        """Get ready to publish entries; called before the transaction of their rows.

        It must raise InvalidInput for vectors that the engine cannot hold, must do here whatever
        needs the network, and must not make anything visible.
        """
        ...

    async def publish(
        self,
        tx: AsyncConnection,
        store: Store,
        document: str,
        metadata: Mapping[str, Any],
        entries: Sequence[Entry],
    ) -> None:
        """Make prepared entries visible when `tx` commits, never before, and not if it rolls back."""
        ...

    async def retract(self, tx: AsyncConnection, store: Store, documents: Sequence[str]) -> None:
        """Make every entry of these documents that is visible in `tx` invisible when it commits."""
        ...

    async def search(self, store: Store, query: Query, finish: Finish[T]) -> T:
        """Return what `finish` makes of the hits.

        The connection that `finish` gets must show the rows of the hits; a hit without a row is to
        be skipped. No connection may be held across a call over the network.
        """
        ...


Opener = Callable[[str | None, AsyncEngine], AbstractAsyncContextManager[VectorEngine]]

DEFAULT_ENGINE = "postgresql"


@asynccontextmanager
async def open_vectors(url: str | None, control: AsyncEngine) -> AsyncGenerator[VectorEngine]:
    """Yield the engine for a URL: the module of this package that has its scheme's name.

    Raises:
        ConfigurationError: this version has no such engine.
    """
    scheme = DEFAULT_ENGINE if url is None else url.partition(":")[0]
    name = f"{__name__}.{scheme}"
    if not scheme.isidentifier() or importlib.util.find_spec(name) is None:
        raise ConfigurationError(
            f"ISTHMUS_VECTORS_URL: there is no vector engine for {scheme}:// in this version; "
            "leave it unset to keep vectors in the control database"
        )
    opener = cast("Opener", importlib.import_module(name).open_engine)
    async with opener(url, control) as engine:
        yield engine
