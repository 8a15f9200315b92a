"""The write of one file into a store: what was read of it, and that it was, in one transaction."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict
from mcp_server.ingest.measure import Tokens
from mcp_server.operation import Operation
from mcp_server.services.files import FileService
from mcp_server.services.ingest import IngestService, Origin
from mcp_server.services.vector_stores import attaching
from mcp_server.services.vector_stores.records import Attached, Chunking
from mcp_server.services.vectors import VectorService, stores
from mcp_server.services.writes import Draft, Record
from mcp_server.storage.sql.schema import encode_json


class NotWanted(Conflict):
    """The file was given again or taken out meanwhile, or its batch was cancelled."""


class AttributesChanged(Conflict):
    """The file got other attributes while it was read: `row` has them."""

    def __init__(self, row: Attached) -> None:
        super().__init__(f"the attributes of {row.file!r} keep changing; add it again")
        self.row = row


def _measure(chunking: Chunking | None) -> Tokens | None:
    return None if chunking is None else Tokens(chunking.max_tokens, chunking.overlap_tokens)


class FileDraft:
    """Reads a file with the rights of a caller, and puts it into its store under its id."""

    verb: Literal["write"] = "write"
    effect = "write"

    def __init__(
        self,
        files: FileService,
        ingest: IngestService,
        vectors: VectorService,
        principal: Principal,
        row: Attached,
    ) -> None:
        self._files, self._ingest, self._vectors = files, ingest, vectors
        self._principal = principal
        self._row = row
        self._inner: Draft | None = None

    @property
    def uri(self) -> str:
        return f"vector://{self._row.store}/{self._row.file}"

    async def prepare(self, op: Operation) -> None:
        row, principal = self._row, self._principal
        filename = (await self._files.get(principal, row.file)).filename
        read = await self._ingest.read(principal, Origin(object=row.file, filename=filename))
        parsed = read.parsed
        self._inner = await self._vectors.draft_write(
            *(principal, row.store, parsed.text),
            document=row.file,
            metadata=row.attributes,
            title=filename,  # what answers cite it by
            source=read.source,
            media_type=parsed.media_type,
            sections=parsed.sections,
            measure=_measure(row.chunking),
            anew=True,
        )
        await self._inner.prepare(op)

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        store = await stores.find_store(tx, op.principal.tenant, self._row.store)
        if store is None:
            raise NotWanted(f"vector store {self._row.store!r} was deleted")
        await stores.hold_store(tx, store)  # first, as everybody does
        row = await attaching.hold(tx, self._row)
        if row is None:
            raise NotWanted(f"{self._row.file!r} is not to be read any more")
        if encode_json(row.attributes) != encode_json(self._row.attributes):  # 1 is not true
            raise AttributesChanged(row)
        answer = await self._read().apply(tx, op)
        await attaching.settle(tx, row.id, "completed")
        return answer

    async def abandon(self) -> None:
        if self._inner is not None:
            await self._inner.abandon()

    def record(self) -> Record:
        return self._read().record()

    def _read(self) -> Draft:
        assert self._inner is not None, "it is prepared before it is applied"  # noqa: S101
        return self._inner
