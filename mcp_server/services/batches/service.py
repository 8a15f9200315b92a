"""Making, reading and cancelling batches; a run of kind `batch` does what they ask."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, and_, func, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, NotFound
from mcp_server.operation import Operations
from mcp_server.runs.record import Run
from mcp_server.services.batches.progress import BatchProgress
from mcp_server.services.batches.records import ENDED, BatchRecord, BatchTerms, record_of
from mcp_server.services.files import new_file_id
from mcp_server.services.purging import EVERY_SECONDS, purging
from mcp_server.services.runs import RunService
from mcp_server.storage.sql.batch_tables import batches
from mcp_server.storage.sql.run_tables import runs

_ID = re.compile(r"batch_[0-9a-f]{32}")
_SHOWN = 80
_BASE = "batch://"
_FILES = "object://files/"


class BatchPage(NamedTuple):
    items: list[BatchRecord]
    has_more: bool


class UnknownBatch(NotFound):
    """There is no such batch, or it is another tenant's."""


async def _nothing() -> None: ...


class BatchService:
    """Each method is one operation on `batch://ID`."""

    def __init__(self, operation: Operations, control: AsyncEngine, starts: RunService) -> None:
        self._operation = operation
        self._control = control
        self._runs = starts

    async def create(
        self,
        principal: Principal,
        terms: BatchTerms,
        check: Callable[[], Awaitable[None]] = _nothing,
    ) -> BatchRecord:
        """Store a batch and start its run, both or none; `check` may refuse what may be decided at once.

        Raises:
            Forbidden: the caller may not read the input file, or not write the files of the answers.
            LimitExceeded: too many runs wait.
        """
        batch = f"batch_{secrets.token_hex(16)}"
        files = new_file_id(), new_file_id()
        async with self._operation(principal, "run", f"{_BASE}{batch}") as op:
            # Now, and not after all the answers were paid for.
            policy.require(principal, "read", f"{_FILES}{terms.input_file}")
            for file in files:
                policy.require(principal, "write", f"{_FILES}{file}")
            await check()
            run: Run = await self._runs.new_batch(op, {"batch": batch})
            values = _first(principal, terms, batch, files, run.id)
            async with self._control.begin() as tx:
                row = (await tx.execute(insert(batches).values(**values).returning(batches))).one()
                await self._runs.start_within(tx, run)
                await op.journal(tx, verb="write")
        self._runs.announce()
        return record_of(row)

    def progress(self, tenant: str, batch: str, key: str) -> BatchProgress:
        """Return the progress of a batch, for its run; `key` is a step's of that."""
        return BatchProgress(self._control, tenant, batch, key)

    async def get(self, principal: Principal, batch: str) -> BatchRecord:
        """Return a batch as it is now, also if its run ended without a word.

        Raises:
            UnknownBatch: there is none.
        """
        uri = f"{_BASE}{batch[:_SHOWN]}"
        async with self._operation(principal, "read", uri), self._control.connect() as tx:
            row = await _find(tx, principal.tenant, batch)
            if row is None:
                raise _unknown(batch)
            return await _now(tx, principal.tenant, record_of(row))

    async def list(self, principal: Principal, *, after: str | None, limit: int) -> BatchPage:
        """Return a page of the batches that the caller may see, the newest first.

        Raises:
            UnknownBatch: `after` is none of them.
        """
        mine = _mine(principal)
        order = tuple_(batches.c.created_at, batches.c.id)
        query = select(batches).where(mine)
        async with (
            self._operation(principal, "read", policy.Listing(_BASE)),
            self._control.connect() as tx,
        ):
            if after is not None:
                here = (await tx.execute(query.where(batches.c.id == after))).one_or_none()
                if here is None:
                    raise _unknown(after)
                query = query.where(order < tuple_(here.created_at, here.id))
            query = query.order_by(batches.c.created_at.desc(), batches.c.id.desc())
            rows = (await tx.execute(query.limit(limit + 1))).all()
            found = [await _now(tx, principal.tenant, record_of(row)) for row in rows[:limit]]
        return BatchPage(found, len(rows) > limit)

    async def cancel(self, principal: Principal, batch: str) -> BatchRecord:
        """Ask a batch to end; what was answered until then is kept in its files.

        Raises:
            UnknownBatch: there is none. Conflict: it has ended, or its files are being written.
        """
        async with (
            self._operation(principal, "run", f"{_BASE}{batch[:_SHOWN]}") as op,
            self._control.begin() as tx,
        ):
            row = await _find(tx, principal.tenant, batch)
            if row is None:
                raise _unknown(batch)
            found = await _now(tx, principal.tenant, record_of(row))
            if found.status in ENDED:
                raise _too_late(batch, found.status)
            changing = batches.c.id == batch, batches.c.status.in_(("validating", "in_progress"))
            values = {"status": "cancelling", "cancelling_at": func.now()}
            statement = update(batches).where(*changing).values(values).returning(batches)
            changed = (await tx.execute(statement)).one_or_none()
            if changed is not None:
                await op.journal(tx, verb="write")
                return record_of(changed)
            row = await _find(tx, principal.tenant, batch)
            if row is None or row.status != "cancelling":
                raise _too_late(batch, "finalizing" if row is None else row.status)
            return record_of(row)


def _first(
    principal: Principal, terms: BatchTerms, batch: str, files: tuple[str, str], run: str
) -> dict[str, Any]:
    return {
        "id": batch,
        "tenant": principal.tenant,
        "subject": principal.subject,
        "key_id": principal.key_id,
        "run": run,
        "endpoint": terms.endpoint,
        "input_file": terms.input_file,
        "output_file": files[0],
        "error_file": files[1],
        "output_seconds": terms.output_seconds,
        "metadata": terms.metadata,
    }


def _mine(principal: Principal) -> ColumnElement[bool]:
    visible = policy.scope(principal, "read", "batch").within(_BASE)
    own = and_(batches.c.tenant == principal.tenant, batches.c.expires_at > func.clock_timestamp())
    if visible is None:
        return own
    shown = [batches.c.id.startswith(prefix, autoescape=True) for prefix in visible]
    return and_(own, or_(False, *shown))


async def _find(tx: AsyncConnection, tenant: str, batch: str) -> Row[Any] | None:
    if not _ID.fullmatch(batch):
        return None
    living = batches.c.expires_at > func.clock_timestamp()
    where = batches.c.tenant == tenant, batches.c.id == batch, living
    return (await tx.execute(select(batches).where(*where))).one_or_none()


async def _now(tx: AsyncConnection, tenant: str, batch: BatchRecord) -> BatchRecord:
    """Tell the end of a batch whose run ended without one: it was cancelled, or its key died."""
    if batch.status in ENDED:
        return batch
    query = select(runs.c.status, runs.c.error, runs.c.ended_at)
    run = (await tx.execute(query.where(runs.c.tenant == tenant, runs.c.id == batch.run))).first()
    if run is None:
        error = {"code": "server_error", "message": "The batch's run is not there any more."}
        return replace(batch, status="failed", ended_at=batch.due_at, errors=[_told(error)])
    if run.status not in ENDED:
        return batch
    if run.status == "cancelled":
        cancelled = batch.cancelling_at or run.ended_at
        return replace(batch, status="cancelled", cancelling_at=cancelled, ended_at=run.ended_at)
    error = run.error or {"code": "server_error", "message": "The batch's run ended before it."}
    return replace(batch, status="failed", ended_at=run.ended_at, errors=[_told(error)])


def _told(error: dict[str, str]) -> dict[str, Any]:
    return {"code": error["code"], "message": error["message"], "param": None, "line": None}


def _unknown(batch: str) -> UnknownBatch:
    return UnknownBatch(f"No batch found with id '{batch[:_SHOWN]}'.", param="batch_id")


def _too_late(batch: str, status: str) -> Conflict:
    return Conflict(f"Cannot cancel the batch '{batch}': its status is '{status}'.")


@asynccontextmanager
async def open_batches(
    operation: Operations,
    control: AsyncEngine,
    starts: RunService,
    every_seconds: float = EVERY_SECONDS,
) -> AsyncGenerator[BatchService]:
    """Yield the service, and delete batches of long ago while it is open."""
    async with purging(control, batches.name, every_seconds):
        yield BatchService(operation, control, starts)
