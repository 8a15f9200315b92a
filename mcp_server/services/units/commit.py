"""The two commits of a unit of work that writes rows: the tenant's first, with the mark, then the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import AppError, Unavailable
from mcp_server.operation import Operation
from mcp_server.services.units import intent as intents
from mcp_server.services.units.intent import Intent
from mcp_server.services.units.parts import OpenedPart
from mcp_server.services.units.recovery import Recovery, Settled
from mcp_server.services.units.rows import UnitStatement
from mcp_server.storage.sql.standstill import pass_gate
from mcp_server.storage.sql.unit import UnitEngine, UnitTransaction, UnitUnsure

logger = logging.getLogger(__name__)

# How long a call stays with a unit that broke off, before it leaves it to the background.
PATIENCE_SECONDS = 20.0
AGAIN_SECONDS = 0.2
Answer = dict[str, Any]


@dataclass(slots=True)
class Together:
    """What one call writes: its own operation, the parts in their order, and the tables of its rows."""

    unit: str
    operation: Operation
    key: str | None
    parts: list[OpenedPart] = field(default_factory=list[OpenedPart])
    tables: list[Operation] = field(default_factory=list[Operation])
    counts: dict[str, int] = field(default_factory=dict[str, int])

    async def apply(self, tx: AsyncConnection, rows: list[Answer]) -> Answer:
        """Write everything but the rows in `tx`; return the answer of the call."""
        answer: Answer = {"unit": self.unit, "rows": rows}
        for section, count in self.counts.items():
            answer[section] = [{}] * count
        for item in self.parts:
            answer[item.part.section][item.part.index] = await item.apply(tx)
        for table in self.tables:
            await table.journal(tx)
        return await self.operation.remember(tx, answer)

    async def abandon(self) -> None:
        for item in self.parts:
            await item.part.draft.abandon()


class Commit:
    """Commits one unit with rows.

    `binding` is True from the moment at which its intent may be stored until what becomes of it is
    known. Whatever happens then, the unit is settled here or by another process: whole, or not at all.
    """

    def __init__(
        self,
        control: AsyncEngine,
        rows: UnitEngine,
        recovery: Recovery,
        slots: asyncio.Semaphore,
        together: Together,
    ) -> None:
        self._control = control
        self._rows = rows
        self._recovery = recovery
        self._slots = slots
        self._together = together
        self._kept = False
        self._unsure = False
        self._answer: Answer | None = None
        self.binding = False

    async def run(self, schema: str, statements: Sequence[UnitStatement]) -> tuple[Answer, bool]:
        """Return the answer, and whether it is of this call and not of an earlier one with its key."""
        try:
            async with self._rows.unit(schema, self._together.unit) as transaction:
                # First: whoever waits for a row here holds none of the control database's.
                results = [await statement.run(transaction) for statement in statements]
                await transaction.ready()
                async with self._slots:
                    return await self._both(transaction, results)
        except Exception as error:
            if not self.binding:
                raise
            return await self._settled(error), True

    async def _both(
        self, transaction: UnitTransaction, results: list[Answer]
    ) -> tuple[Answer, bool]:
        together = self._together
        operation = together.operation
        async with self._control.begin() as tx, AsyncExitStack() as beside:
            # Before any lock: those who wait for what this holds may have every other connection.
            early = await beside.enter_async_context(self._control.begin())
            await pass_gate(tx)
            done = await operation.replay(tx)
            if done is not None:
                return done, False
            answer = self._answer = await together.apply(tx, results)
            changed = await intents.changed_by(tx, operation.principal.tenant)
            intent = self._intent(answer, changed)
            await self._store(intent, early, beside)
            # Whoever finds the intent from here on waits for `tx`; it also shows that `tx` lives, and
            # so that its locks were there until the holds of the intent stood.
            if not await intents.take_away(tx, intent.id):
                raise Unavailable("this unit of work was given up meanwhile; try again")
            try:
                await transaction.commit()
            except UnitUnsure:
                self._unsure = True
                raise
            self._kept = True
        self.binding = False
        return answer, True

    def _intent(self, answer: Answer, changed: set[str]) -> Intent:
        together = self._together
        return Intent(
            together.unit,
            together.operation.principal,
            together.key,
            tuple(table.uri for table in together.tables),
            intents.writes_of(together.parts, changed),
            answer,
        )

    async def _store(self, intent: Intent, early: AsyncConnection, beside: AsyncExitStack) -> None:
        """Store the intent in the transaction `early`, and commit that by closing `beside`."""
        self.binding = True
        try:
            await intents.store(early, intent, self._together.operation.key)
            await beside.aclose()
        except IntegrityError as error:
            self.binding = False
            raise Unavailable(
                "an earlier call with this idempotency key is being finished; try again"
            ) from error

    async def _settled(self, error: Exception) -> Answer:
        """Find out, or decide, what became of a unit that broke off after its intent was stored."""
        logger.warning("unit %s broke off: %s", self._together.unit, error)
        certain = not self._kept and not self._unsure  # that the rows were not committed
        try:
            found = await self._patiently()
        except (AppError, SQLAlchemyError, OSError, TimeoutError) as unsettled:
            if certain:
                raise _nothing(error) from error
            raise Unavailable(
                f"unit {self._together.unit} broke off between its two commits; it is finished or "
                "dropped in the background: look before you send it again"
            ) from unsettled
        self.binding = False
        if found.answer is not None:
            return found.answer
        if found.outcome == "dropped" or certain:
            raise _nothing(error) from error
        # It is finished, by its own second commit or by another process.
        done = await self._together.operation.look(self._control)
        if done is None and self._kept:
            done = self._answer
        if done is None:
            raise Unavailable(
                f"unit {self._together.unit} was settled by another process; look before you send it "
                "again"
            ) from error
        return done

    async def _patiently(self) -> Settled:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    return await self._recovery.settle(self._together.unit)
                except (AppError, SQLAlchemyError, OSError) as error:
                    logger.warning("unit %s is not settled yet: %s", self._together.unit, error)
                await asyncio.sleep(AGAIN_SECONDS)


def _nothing(error: Exception) -> AppError:
    if isinstance(error, AppError):
        return error
    return Unavailable("an engine does not answer, and nothing of this was done; try again")
