"""The one place that speaks to the Milvus library, which carries no types."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio.to_thread
import numpy as np
from pymilvus import AsyncMilvusClient, DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from mcp_server.errors import Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT_SECONDS = 30.0
# A tenant's entries stand in one of them, so that a search reads no more.
PARTITIONS = 16
# What a query may return at once.
MAX_WINDOW = 16_384
_NOT_LOADED = 101
# The most bytes of a document's name, two hexadecimal digits each; the most that an array holds.
_MAX_NAME, _MAX_LABELS = 2 * 1024, 4096


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Milvus server is reached."""

    uri: str
    user: str = ""
    password: str = ""
    database: str = ""

    def options(self) -> dict[str, Any]:
        return {
            "uri": self.uri,
            "user": self.user,
            "password": self.password,
            "db_name": self.database,
            "timeout": TIMEOUT_SECONDS,
            # A server that is back is found within two seconds, not twenty.
            "grpc_options": {
                "grpc.initial_reconnect_backoff_ms": 200,
                "grpc.max_reconnect_backoff_ms": 2000,
            },
        }


@dataclass(frozen=True, slots=True)
class Found:
    """One entry that a search found; a higher score is better."""

    id: int
    generation: int
    document: str
    score: float


class Collections:
    """The collections of one control database, one for each length of vectors."""

    def __init__(self, address: Address, prefix: str) -> None:
        self._address = address
        self._prefix = prefix
        self._client: Any = AsyncMilvusClient(**address.options(), dedicated=True)
        self._known: set[int] = set()
        self._making = asyncio.Lock()
        # New rows of each collection since it was flushed, and when the last came.
        self._fresh: dict[int, tuple[int, float]] = {}

    async def connect(self, seconds: float) -> None:
        """Load what is there: a server that was started anew may have released it.

        Raises:
            ConnectionError: no server answers within some seconds, or it refuses.
        """
        try:
            async with asyncio.timeout(seconds):
                names: list[str] = await self._client.list_collections()
                for name in names:
                    size = name.removeprefix(f"{self._prefix}_")
                    if name.startswith(f"{self._prefix}_") and size.isdecimal():
                        await self._load(int(size))
        except (MilvusException, Unavailable, TimeoutError) as error:
            logger.warning("milvus: %s", error)
            raise ConnectionError(type(error).__name__) from error

    async def close(self) -> None:
        await self._client.close()

    async def answers(self) -> None:
        await self._said(self._client.list_collections(timeout=TIMEOUT_SECONDS))

    async def ensure(self, dimensions: int) -> None:
        """Make and load the collection for vectors of a length, unless it is there."""
        if dimensions in self._known:
            return
        async with self._making:
            if dimensions not in self._known:
                await self._in_thread(lambda client: self._make(client, dimensions))
                self._known.add(dimensions)

    async def insert(self, dimensions: int, rows: Sequence[Mapping[str, Any]]) -> None:
        await self._said(self._client.insert(self._name(dimensions), [dict(row) for row in rows]))
        count, _ = self._fresh.get(dimensions, (0, 0.0))
        self._fresh[dimensions] = count + len(rows), time.monotonic()

    async def delete(self, dimensions: int, expression: str) -> None:
        await self._said(self._client.delete(self._name(dimensions), filter=expression))

    async def search(
        self,
        dimensions: int,
        field: str,
        vector: Any,
        expression: str,
        limit: int,
        parameters: Mapping[str, Any],
    ) -> list[Found]:
        """Return the best entries by one of the two fields; what was inserted before is seen."""

        async def ask() -> Any:
            return await self._client.search(
                self._name(dimensions),
                [vector],
                anns_field=field,
                filter=expression,
                limit=limit,
                search_params=dict(parameters),
                output_fields=["generation", "document"],
                consistency_level="Strong",
                timeout=TIMEOUT_SECONDS,
            )

        [hits] = await self._loaded(dimensions, ask)
        return [_found(hit, hit["entity"], hit["distance"]) for hit in hits]

    async def scan(self, dimensions: int, vector: Sequence[float], expression: str) -> list[Found]:
        """Return all entries that an expression admits, with their cosine; of more than `MAX_WINDOW` some."""
        rows = await self._query(dimensions, expression, ["id", "generation", "document", "dense"])
        if not rows:
            return []
        asked = np.asarray(vector, np.float32)
        held = np.asarray([row["dense"] for row in rows], np.float32)
        lengths = np.linalg.norm(held, axis=1) * np.linalg.norm(asked)
        scores = (held @ asked) / np.where(lengths == 0, 1, lengths)
        return [_found(row, row, score) for row, score in zip(rows, scores.tolist(), strict=True)]

    async def vectors(self, dimensions: int, expression: str) -> dict[int, list[float]]:
        """Return the dense vectors of entries by id."""
        rows = await self._query(dimensions, expression, ["id", "dense"])
        return {int(row["id"]): [float(value) for value in row["dense"]] for row in rows}

    async def _query(self, dimensions: int, expression: str, names: list[str]) -> list[Any]:
        async def ask() -> Any:
            return await self._client.query(
                self._name(dimensions),
                filter=expression,
                output_fields=names,
                limit=MAX_WINDOW,
                consistency_level="Strong",
                timeout=TIMEOUT_SECONDS,
            )

        return list(await self._loaded(dimensions, ask))

    async def flush(self, most: int, idle_seconds: float) -> None:
        """Write collections with more than `most` new rows, or with any that are some time old.

        Rows that are not flushed are searched one by one: 4,000 made a search four times as long.
        """
        now = time.monotonic()
        for dimensions, (count, last) in list(self._fresh.items()):
            if count > most or now - last >= idle_seconds:
                del self._fresh[dimensions]
                await self._in_thread(lambda client, at=dimensions: client.flush(self._name(at)))

    async def drop(self) -> None:
        """Drop all collections: for tests and benchmarks that end."""
        for name in await self._client.list_collections():
            if name.startswith(f"{self._prefix}_"):
                await self._in_thread(lambda client, at=name: client.drop_collection(at))

    def _name(self, dimensions: int) -> str:
        return f"{self._prefix}_{dimensions}"

    async def _loaded(self, dimensions: int, ask: Callable[[], Any]) -> Any:
        """Ask a collection, and once more if a server that was started anew had it released."""
        try:
            return await ask()
        except MilvusException as error:
            if error.code != _NOT_LOADED:
                raise _unavailable(error) from error
        await self._load(dimensions)
        return await self._said(ask())

    async def _load(self, dimensions: int) -> None:
        await self._in_thread(lambda client: client.load_collection(self._name(dimensions)))
        self._known.add(dimensions)

    async def _said(self, answer: Any) -> Any:
        try:
            return await answer
        except MilvusException as error:
            raise _unavailable(error) from error

    async def _in_thread(self, work: Callable[[Any], T]) -> T:
        """Define in a thread: the asynchronous client asks what milvus-lite does not implement."""

        def run() -> T:
            client: Any = MilvusClient(**self._address.options(), dedicated=True)
            try:
                return work(client)
            finally:
                client.close()

        try:
            return await anyio.to_thread.run_sync(run, abandon_on_cancel=True)
        except MilvusException as error:
            raise _unavailable(error) from error

    def _make(self, client: Any, dimensions: int) -> None:
        name = self._name(dimensions)
        if not client.has_collection(name):
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("tenant", DataType.VARCHAR, max_length=64, is_partition_key=True)
            schema.add_field("store", DataType.VARCHAR, max_length=64)
            schema.add_field("generation", DataType.INT64)
            schema.add_field("document", DataType.VARCHAR, max_length=_MAX_NAME)
            schema.add_field(
                "labels", DataType.ARRAY, element_type=DataType.INT64, max_capacity=_MAX_LABELS
            )
            schema.add_field("numbers", DataType.JSON)
            schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dimensions)
            schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
            index = client.prepare_index_params()
            graph = {"M": 16, "efConstruction": 200}
            index.add_index("dense", index_type="HNSW", metric_type="COSINE", params=graph)
            index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
            try:
                client.create_collection(
                    name, schema=schema, index_params=index, num_partitions=PARTITIONS
                )
            except MilvusException:
                if not client.has_collection(name):  # else another process was faster
                    raise
        client.load_collection(name)


def _found(row: Any, entity: Any, score: float) -> Found:
    document = bytes.fromhex(entity["document"]).decode()
    return Found(int(row["id"]), int(entity["generation"]), document, float(score))


def _unavailable(error: MilvusException) -> Unavailable:
    logger.warning("milvus: %s", error)
    return Unavailable("the vector engine does not answer as it should; try again")
