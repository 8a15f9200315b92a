"""Vector engines: what every one of them must do, and the choice of one by its URL."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import ConfigurationError
from mcp_server.filters import Filter

T = TypeVar("T")

DEFAULT_ENGINE = "postgresql"


@dataclass(frozen=True, slots=True)
class Store:
    """A vector store as its row has it; ids are unique over all tenants.

    `shard` is where the rows stand in this database, 0 where small stores do. `idle` says that nothing
    was noted of its use for a while, and `expired` that it was not used for as long as it should live.
    """

    id: str
    tenant: str
    name: str
    embedding_model: str
    dimensions: int
    engine: str = DEFAULT_ENGINE
    shard: int = 0
    idle: bool = False
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """What an engine holds of one chunk: a row of `chunks` has the same id and the text."""

    id: int
    tokens: Sequence[str]
    vector: Sequence[float]


@dataclass(frozen=True, slots=True)
class Batch:
    """All entries of one document's new version, at least one; ids rise."""

    store: Store
    document: str
    metadata: Mapping[str, Any]
    entries: Sequence[Entry]

    @property
    def generation(self) -> int:
        """A number that no other batch ever had."""
        return self.entries[0].id


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

    @property
    def name(self) -> str:
        """Its URL's scheme, as `vector_stores.engine` holds it."""
        ...

    async def prepare(self, batch: Batch) -> None:
        """Get ready to publish a batch; called before the transaction of its rows.

        It must raise InvalidInput for vectors that the engine cannot hold, must do here whatever
        needs the network, and must not make anything visible. What is never published must be
        collected later, also after a crash.
        """
        ...

    async def publish(self, tx: AsyncConnection, batch: Batch) -> None:
        """Make a prepared batch visible when `tx` commits, never before, and not if it rolls back.

        Raises:
            Conflict: it was prepared so long ago that it is collected already.
        """
        ...

    async def discard(self, batch: Batch) -> None:
        """Give back a batch that was prepared, or began to be, and is certainly not published."""
        ...

    async def retract(
        self, tx: AsyncConnection, store: Store, documents: Sequence[str] | None
    ) -> None:
        """Make every entry that is visible in `tx` invisible when it commits: of these documents, or all."""
        ...

    async def answers(self) -> None:
        """Return if the engine answers, raise what ails it if not."""
        ...

    async def search(self, store: Store, query: Query, finish: Finish[T]) -> T:
        """Return what `finish` makes of the hits.

        The connection that `finish` gets must show the rows of the hits; a hit without a row is to
        be skipped. No connection may be held across a call over the network.
        """
        ...


@runtime_checkable
class KeepsFilterFields(Protocol):
    """An engine whose entries hold the metadata: a change of it needs new entries with the old vectors."""

    async def vectors(self, store: Store, generation: int) -> dict[int, Sequence[float]]:
        """Return the vectors of a published batch by chunk id; no connection of ours is held."""
        ...


Opener = Callable[[str | None, AsyncEngine], AbstractAsyncContextManager[VectorEngine]]


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
