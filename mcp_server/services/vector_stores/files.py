"""Files in vector stores: given one by one or many together, read by a run, and taken out again."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ARRAY, Text, any_, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.runs.record import Run
from mcp_server.services import names
from mcp_server.services.files import BUCKET, UnknownFile
from mcp_server.services.objects.manifest import LIVING
from mcp_server.services.runs import RunService
from mcp_server.services.vector_stores import attaching, file_rows
from mcp_server.services.vector_stores.records import (
    BatchRecord,
    FileRecord,
    GivenFile,
    Page,
    Paging,
)
from mcp_server.services.vectors import VectorService, content, stores
from mcp_server.services.vectors.access import StoreAccess, visible
from mcp_server.storage.sql.schema import objects
from mcp_server.storage.sql.vector_store_tables import vector_file_batches as batches
from mcp_server.storage.vectors import Store, VectorEngine

_BATCH = re.compile(r"vsfb_[0-9a-f]{24}")
_SHOWN = 80


class VectorFiles(StoreAccess):
    """Every method is one operation on `vector://STORE/FILE`, or on all that a store holds."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        engine: VectorEngine,
        vectors: VectorService,
        runs: RunService,
    ) -> None:
        super().__init__(operation, control, engine)
        self._vectors = vectors
        self._runs = runs

    async def add(self, principal: Principal, store: str, given: GivenFile) -> FileRecord:
        """Have a file read into a store, in the place of what is there of it.

        Raises:
            NotFound: there is no such store or file. LimitExceeded: too many runs wait.
        """
        name = await self._name(principal, "write", store)
        uri = f"vector://{name}/{names.key(given.file, 'file_id')}"
        async with self._operation(principal, "write", uri) as op:
            await self._attach(op, name, [given], None)
            return await self._load(principal, name, given.file)

    async def add_batch(
        self, principal: Principal, store: str, given: Sequence[GivenFile]
    ) -> BatchRecord:
        """Have files read into a store together; of one that is named twice the last counts.

        Raises:
            NotFound: there is no such store, or one of the files. LimitExceeded: too many runs wait.
        """
        name = await self._name(principal, "write", store)
        batch = f"vsfb_{secrets.token_hex(12)}"
        uri = policy.Listing(f"vector://{name}/")
        async with self._operation(principal, "write", uri) as op:
            await self._attach(op, name, given, batch)
            return await self._load_batch(principal, name, batch)

    async def check(
        self, op: Operation, name: str, given: Iterable[GivenFile]
    ) -> tuple[list[GivenFile], Run]:
        """Return the files that may be read into a store, with the run that will; nothing is begun.

        Raises:
            UnknownFile: one is not there. Forbidden: the caller may not read one, or not write it there.
        """
        wanted = {names.key(each.file, "file_id"): each for each in given}
        for each in wanted.values():
            policy.require(op.principal, "write", f"vector://{name}/{each.file}")
            policy.require(op.principal, "read", f"object://{BUCKET}/{each.file}")
            content.checked_metadata(each.attributes)
        async with self._control.connect() as tx:
            listed = bindparam("files", list(wanted), type_=ARRAY(Text))
            query = select(objects.c.key).where(
                *(objects.c.tenant == op.principal.tenant, objects.c.bucket == BUCKET),
                *(objects.c.key == any_(listed), objects.c.key == objects.c.id, LIVING),
            )
            there = set(await tx.scalars(query))
        for file in wanted:
            if file not in there:
                raise UnknownFile(f"No such File object: {file[:_SHOWN]}", param="file_id")
        run = await self._runs.new_ingestion(op, {"files": len(wanted)})
        return list(wanted.values()), run

    async def begin(
        self,
        tx: AsyncConnection,
        store: Store,
        checked: tuple[list[GivenFile], Run],
        batch: str | None = None,
    ) -> None:
        """Begin to read files when `tx` commits; `announce` it then."""
        given, run = checked
        await attaching.attach(tx, store, given, run.id, batch)
        await self._runs.start_within(tx, run)

    def announce(self) -> None:
        """Tell workers of what `begin` began."""
        self._runs.announce()

    async def get(self, principal: Principal, store: str, file: str) -> FileRecord:
        """Return one file.

        Raises:
            NotFound: there is no such store, or no such file in it.
        """
        given = names.key(file, "file_id")
        name = await self._name(principal, "read", store)
        async with self._operation(principal, "read", f"vector://{name}/{given}"):
            return await self._load(principal, name, given)

    async def list(
        self,
        principal: Principal,
        store: str,
        paging: Paging,
        *,
        status: str | None = None,
        batch: str | None = None,
    ) -> Page[FileRecord]:
        """Return a page of a store's files, or of a batch's, by the time at which they were given.

        Raises:
            NotFound: there is no such store or batch. UnknownCursor: see `Paging`.
        """
        name = await self._name(principal, "read", store)
        shown = visible(principal, "read", name)
        async with (
            self._operation(principal, "read", policy.Listing(f"vector://{name}/")),
            self._control.connect() as tx,
        ):
            found = await self._find(principal, name, tx)
            if batch is not None:
                await self._batch(tx, found, batch)
            return await file_rows.page(
                tx, found, paging, status=status, prefixes=shown, batch=batch
            )

    async def text(self, principal: Principal, store: str, file: str) -> str | None:
        """Return what was read of a file; None if it is not read, or not yet.

        Raises:
            NotFound: there is no such store, or no such file in it.
        """
        if (await self.get(principal, store, file)).status != "completed":
            return None
        return (await self._vectors.get(principal, store, file))["text"]

    async def update(
        self, principal: Principal, store: str, file: str, attributes: dict[str, Any]
    ) -> FileRecord:
        """Put other attributes in the place of all that a file has; nothing is read again.

        Raises:
            NotFound: there is no such store, or no such file in it.
        """
        given, attributes = names.key(file, "file_id"), content.checked_metadata(attributes)
        name = await self._name(principal, "write", store)
        async with self._operation(principal, "write", f"vector://{name}/{given}"):
            await self._load(principal, name, given)
            async with self._control.begin() as tx:
                found = await self._find(principal, name, tx)
                await stores.hold_store(tx, found)
                await attaching.put_attributes(tx, found, given, attributes)
            await self._vectors.update(principal, name, attributes, document=given, whole=True)
            return await self._load(principal, name, given)

    async def remove(self, principal: Principal, store: str, file: str) -> None:
        """Take a file out of a store, with what was read of it; the file itself stays.

        Raises:
            NotFound: there is no such store, or no such file in it.
        """
        if not await self.discard(principal, store, file):
            raise _unknown(store, file)

    async def discard(self, principal: Principal, store: str, file: str) -> bool:
        """Take a file out of a store, and tell whether it was there.

        Raises:
            NotFound: there is no such store.
        """
        given = names.key(file, "file_id")
        name = await self._name(principal, "write", store)
        async with self._operation(principal, "write", f"vector://{name}/{given}") as op:
            draft = await self._vectors.draft_delete(principal, name, given)
            async with self._control.begin() as tx:
                found = await self._find(principal, name, tx)
                await stores.hold_store(tx, found)
                rows = await attaching.leave(tx, found, [given])
                return bool((await draft.apply(tx, op))["deleted"] or rows)

    async def batch(self, principal: Principal, store: str, batch: str) -> BatchRecord:
        """Return what became of files that were given together.

        Raises:
            NotFound: there is no such store, or no such batch of it.
        """
        name = await self._name(principal, "read", store)
        async with self._operation(principal, "read", policy.Listing(f"vector://{name}/")):
            return await self._load_batch(principal, name, batch)

    async def cancel(self, principal: Principal, store: str, batch: str) -> BatchRecord:
        """Read no more of the files of a batch; those that were read stay.

        Raises:
            NotFound: there is no such store, or no such batch of it.
        """
        name = await self._name(principal, "write", store)
        async with self._operation(principal, "write", policy.Listing(f"vector://{name}/")):
            async with self._control.begin() as tx:
                found = await self._find(principal, name, tx)
                await stores.hold_store(tx, found)
                await self._batch(tx, found, batch)
                if (await file_rows.batch_counts(tx, batch)).in_progress:
                    await attaching.cancel(tx, batch)
            # Its run finds nothing that it still has to read.
            return await self._load_batch(principal, name, batch)

    async def _attach(
        self, op: Operation, name: str, given: Sequence[GivenFile], batch: str | None
    ) -> None:
        await self._find(op.principal, name)
        checked = await self.check(op, name, given)
        async with self._control.begin() as tx:
            found = await self._find(op.principal, name, tx)
            await stores.hold_store(tx, found)
            await stores.note_use(tx, found)
            await self.begin(tx, found, checked, batch)
        self.announce()

    async def _load(self, principal: Principal, name: str, file: str) -> FileRecord:
        async with self._control.connect() as tx:
            store = await self._find(principal, name, tx)
            found = await file_rows.find(tx, store, file)
        if found is None:
            raise _unknown(store.id, file)
        return found

    async def _load_batch(self, principal: Principal, name: str, batch: str) -> BatchRecord:
        async with self._control.connect() as tx:
            store = await self._find(principal, name, tx)
            row = await self._batch(tx, store, batch)
            numbers = await file_rows.batch_counts(tx, batch)
        return BatchRecord(row.id, store.id, row.created_at, row.cancelled, numbers)

    async def _batch(self, tx: AsyncConnection, store: Store, batch: str) -> Any:
        row = None
        if _BATCH.fullmatch(batch):
            query = select(batches).where(batches.c.id == batch, batches.c.store == store.id)
            row = (await tx.execute(query)).first()
        if row is None:
            raise NotFound(
                f"No file batch found with id '{batch[:_SHOWN]}' in vector store '{store.id}'.",
                param="batch_id",
            )
        return row


def _unknown(store: str, file: str) -> NotFound:
    return NotFound(
        f"No file found with id '{file[:_SHOWN]}' in vector store '{store}'.", param="file_id"
    )
