"""Writing together: one call whose rows, keys, objects and documents are all written, or none of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import TypedDict

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, InvalidInput
from mcp_server.operation import Operation, Operations
from mcp_server.services.sql_places import Places
from mcp_server.services.units.commit import Commit, Together
from mcp_server.services.units.parts import (
    DocumentPart,
    KeyPart,
    ObjectPart,
    OpenedPart,
    Part,
    RowPart,
    UnitStores,
    drafts_of,
    located,
)
from mcp_server.services.units.recovery import LABEL, URI, Recovery, keeping_units
from mcp_server.services.units.rows import UnitStatement, statements_of
from mcp_server.storage.sql import SqlEngine
from mcp_server.storage.sql.unit import UnitEngine

# Each of these has two connections of the control database for a moment.
COMMITS_AT_ONCE = 4


class WrittenTogether(TypedDict):
    """The answers of the parts, in the order in which they were given; keys without their values."""

    unit: str
    rows: list[dict[str, Any]]
    keys: list[dict[str, Any]]
    objects: list[dict[str, Any]]
    documents: list[dict[str, Any]]


class UnitService:
    """One unit of work is one operation on `tool://write_together`, and one on all that it writes."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        stores: UnitStores,
        engine: SqlEngine,
        rows: UnitEngine,
        recovery: Recovery,
    ) -> None:
        self._operation = operation
        self._control = control
        self._stores = stores
        self._places = Places(engine, {})
        self._rows = rows
        self._recovery = recovery
        self._slots = asyncio.Semaphore(COMMITS_AT_ONCE)
        self._committing: set[asyncio.Task[Any]] = set()

    async def write_together(
        self,
        principal: Principal,
        *,
        rows: Sequence[RowPart] = (),
        keys: Sequence[KeyPart] = (),
        objects: Sequence[ObjectPart] = (),
        documents: Sequence[DocumentPart] = (),
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> WrittenTogether:
        """Write all of it or nothing. `docs/units.md` says what others see in between.

        Raises:
            Conflict: a condition, a constraint or another transaction stands against one of the parts.
            InvalidInput: an argument does not fit; the message begins with the part.
            Forbidden: one of the parts is not allowed.
            Unavailable: nothing was done, or the message says that it is finished in the background.
        """
        parts = await drafts_of(self._stores, principal, keys, objects, documents)
        if not parts and not rows:
            raise InvalidInput("rows: give at least one of rows, keys, objects and documents")
        unit = f"unit_{secrets.token_hex(12)}"
        opening = (deadline, idempotency_key, LABEL + unit)
        async with (
            self._operation(
                principal, "write", URI, key=idempotency_key, deadline=deadline
            ) as operation,
            AsyncExitStack() as stack,
        ):
            done = await self._done(operation)
            if done is not None:
                return done
            statements = await statements_of(
                self._operation, self._places, principal, rows, *opening
            )
            together = Together(unit, operation, idempotency_key)
            for part in parts:
                opened = self._opened(principal, part, *opening)
                together.parts.append(OpenedPart(part, await stack.enter_async_context(opened)))
            for item in statements:
                together.tables += await stack.enter_async_context(item.statement.opened())
            together.counts = {
                "keys": len(keys),
                "objects": len(objects),
                "documents": len(documents),
            }
            return await self._written(together, statements)

    def _opened(
        self, principal: Principal, part: Part, deadline: float | None, key: str | None, label: str
    ) -> AbstractAsyncContextManager[Operation]:
        draft = part.draft
        return self._operation(
            principal, draft.verb, draft.uri, key=key, deadline=deadline, labels=(label,)
        )

    async def _done(self, operation: Operation) -> WrittenTogether | None:
        """Return what an earlier call with the same key answered."""
        if operation.key is None:
            return None
        await self._recovery.settle_key(operation.principal.tenant, operation.key)
        return await operation.look(self._control)

    async def _written(
        self, together: Together, statements: Sequence[UnitStatement]
    ) -> WrittenTogether:
        commit = Commit(self._control, self._rows, self._recovery, self._slots, together)
        try:
            for item in together.parts:
                with located(item.part.section, item.part.index):
                    await item.part.draft.prepare(item.operation)
            if statements:
                schema = statements[0].statement.place.schema
                answer, new = await self._to_its_end(commit, commit.run(schema, statements))
            else:
                answer, new = await self._at_once(together)
        except (
            AppError
        ):  # certain, unless the unit is bound: then what was prepared is still needed
            if not commit.binding:
                await together.abandon()
            raise
        if not new:
            await together.abandon()
        return cast("WrittenTogether", answer)

    async def _at_once(self, together: Together) -> tuple[dict[str, Any], bool]:
        """Write what lives in one database, in one transaction."""
        async with self._control.begin() as tx:
            done = await together.operation.replay(tx)
            if done is not None:
                return done, False
            return await together.apply(tx, []), True

    async def _to_its_end(
        self, commit: Commit, committing: Awaitable[tuple[dict[str, Any], bool]]
    ) -> tuple[dict[str, Any], bool]:
        """Wait for a commit; one that is bound goes on when the caller goes away."""
        task = asyncio.ensure_future(committing)
        self._committing.add(task)
        task.add_done_callback(self._committing.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not commit.binding:
                task.cancel()
            raise


@asynccontextmanager
async def open_units(
    operation: Operations,
    control: AsyncEngine,
    stores: UnitStores,
    engine: SqlEngine,
    rows: UnitEngine,
) -> AsyncGenerator[UnitService]:
    """Yield the service, and settle in the background what processes that died left behind."""
    recovery = Recovery(operation, control, stores, rows)
    async with keeping_units(recovery):
        yield UnitService(operation, control, stores, engine, rows, recovery)
