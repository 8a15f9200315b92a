"""The work of a run that reads files into a vector store, one after the other, each of them once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.auth.principal import Principal, acting_as
from mcp_server.errors import AppError, InvalidInput, LeaseLost, NotFound
from mcp_server.ingest.parsing import UnsupportedDocument
from mcp_server.operation import Operations
from mcp_server.runs.context import RunContext
from mcp_server.runs.fence import parse_key
from mcp_server.runs.record import Outcome
from mcp_server.services.files import FileService
from mcp_server.services.grants import Grant, ScopesNow
from mcp_server.services.ingest import IngestService
from mcp_server.services.vector_stores import attaching
from mcp_server.services.vector_stores.draft import AttributesChanged, FileDraft, NotWanted
from mcp_server.services.vector_stores.records import Attached, FileStatus
from mcp_server.services.vectors import VectorService
from mcp_server.services.writes import carry_out
from mcp_server.storage.sql import effects
from mcp_server.storage.sql.effects import Lease

# Attributes that keep changing while a file is read are no reason to read it for ever.
_TRIES = 5


@dataclass(frozen=True, slots=True)
class IngestionWork:
    """Executes runs of kind `ingestion`.

    What is still to be read stands in the rows of the files: a run that is resumed goes on with those.
    """

    control: AsyncEngine
    operations: Operations
    files: FileService
    ingest: IngestService
    vectors: VectorService
    scopes_now: ScopesNow

    async def __call__(self, context: RunContext) -> Outcome:
        """Read the files that the run was started for; one that cannot be read fails no other.

        Raises:
            Unauthenticated: the key that started the run is dead.
            AppError: an engine or a model is away, and the run is tried again later.
        """
        run = context.run
        grant = Grant(Principal(run.tenant, run.subject, run.grant, run.key_id), self.scopes_now)
        total: int = run.input["files"]
        async with self.control.connect() as tx:
            wanted = await attaching.waiting(tx, run.id)
        ended: Counter[FileStatus] = Counter()
        for row in wanted:
            context.progress(total - len(wanted) + ended.total(), total, row.file)
            principal = await grant.now()
            with acting_as(principal):
                ended[await self._read(context, principal, row)] += 1
        return Outcome(status="completed", output=_told(ended))

    async def _read(self, context: RunContext, principal: Principal, row: Attached) -> FileStatus:
        key = context.key(f"file/{row.id}")
        uri = f"vector://{row.store}/{row.file}"
        for left in reversed(range(_TRIES)):
            draft = FileDraft(self.files, self.ingest, self.vectors, principal, row)
            try:
                async with self.operations(principal, "write", uri, key=key) as op:
                    await carry_out(self.control, op, draft)
            except NotWanted:
                return "cancelled"
            except LeaseLost:
                raise
            except AttributesChanged as error:
                row = error.row
                if not left:
                    await self._fail(principal.tenant, key, row, error)
            except AppError as error:
                # An engine that is away concerns the run, which waits for it.
                if error.retryable and error.param is None:
                    raise
                await self._fail(principal.tenant, key, row, error)
                return "failed"
            else:
                return "completed"
        return "failed"

    async def _fail(self, tenant: str, key: str, row: Attached, error: AppError) -> None:
        async with self.control.begin() as tx:
            await _hold(tx, tenant, key)
            await attaching.settle(tx, row.id, "failed", (_code(error), error.message))


async def _hold(tx: AsyncConnection, tenant: str, key: str) -> None:
    step = parse_key(key)
    assert step is not None, "a run makes its keys"  # noqa: S101
    await effects.hold(tx, tenant, Lease(step.run, step.epoch, step.attempt))


def _code(error: AppError) -> str:
    """Return which of OpenAI's three reasons it is."""
    if isinstance(error, UnsupportedDocument):
        return "unsupported_file"
    return "invalid_file" if isinstance(error, InvalidInput | NotFound) else "server_error"


def _told(ended: Counter[FileStatus]) -> dict[str, Any]:
    """Return the outcome as a tool's result."""
    numbers = {status: ended[status] for status in ("completed", "failed", "cancelled")}
    text = ", ".join(f"{number} {status}" for status, number in numbers.items())
    return {"text": text, "structured": numbers, "is_error": False}
