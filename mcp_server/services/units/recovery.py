"""Settling units of work that broke off: finished if their rows were committed, else dropped, by any process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.errors import AppError
from mcp_server.operation import Operation, Operations
from mcp_server.runs.fence import parse_key
from mcp_server.services.units import intent as intents
from mcp_server.services.units.intent import Intent
from mcp_server.services.units.parts import OpenedPart, Part, UnitStores
from mcp_server.storage.sql import effects
from mcp_server.storage.sql.effects import Effect, Lease
from mcp_server.storage.sql.unit import UnitEngine

logger = logging.getLogger(__name__)

URI = "tool://write_together"
LABEL = "unit:"
EVERY_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a unit; `gone`: somebody else has settled it. `answer` is there if it was finished."""

    outcome: Literal["finished", "dropped", "gone"]
    answer: dict[str, Any] | None = None


class Recovery:
    """Settles units whose process died between the two commits, or does not know how the first ended.

    No two do it at once: the last step of each deletes the same row.
    """

    def __init__(
        self, operation: Operations, control: AsyncEngine, stores: UnitStores, rows: UnitEngine
    ) -> None:
        self._operation = operation
        self._control = control
        self._stores = stores
        self._rows = rows

    async def settle(self, unit: str) -> Settled:
        """Finish a unit if its rows were committed; else see to it that they never are, and drop it.

        Raises:
            AppError, SQLAlchemyError, OSError: it cannot be done now.
        """
        intent = await intents.load(self._control, unit)
        if intent is None:
            return Settled("gone")
        if await self._rows.settle(unit):
            return await self._finish(intent)
        async with self._control.begin() as tx:
            dropped = await intents.take_away(tx, unit)
        return Settled("dropped" if dropped else "gone")

    async def settle_key(self, tenant: str, key: str) -> None:
        """Settle what an earlier call with the same key left behind, so that its answer is found."""
        unit = await intents.of_key(self._control, tenant, key)
        if unit is not None:
            await self.settle(unit)

    async def sweep(self) -> int:
        """Settle every unit that was left behind; return how many."""
        settled = 0
        for unit in await intents.left_behind(self._control):
            try:
                found = await self.settle(unit)
            except (AppError, SQLAlchemyError, OSError) as error:
                logger.warning(
                    "unit %s is not settled yet, the next round tries again: %s", unit, error
                )
                continue
            settled += found.outcome != "gone"
            logger.info("unit %s was left behind: %s", unit, found.outcome)
        return settled

    async def _finish(self, intent: Intent) -> Settled:
        """Write what was decided. Its holds have kept everybody else from it."""
        async with AsyncExitStack() as stack:
            opened: list[OpenedPart] = []
            for item in intent.writes:
                store = self._stores.of(item.section)
                draft = await store.draft_recorded(intent.principal, item.uri, item.record)
                operation = await stack.enter_async_context(self._opened(intent, item.uri))
                await draft.prepare(operation)
                part = Part(item.section, item.index, draft)
                opened.append(OpenedPart(part, _for_its_run(operation, intent)))
            tables = [
                _for_its_run(await stack.enter_async_context(self._opened(intent, uri)), intent)
                for uri in intent.tables
            ]
            async with self._control.begin() as tx:
                finished = await intents.take_away(tx, intent.id)
                answer = await self._write(tx, intent, opened, tables) if finished else None
            if not finished:
                for item in opened:
                    await item.part.draft.abandon()
        return Settled("finished" if finished else "gone", answer)

    async def _write(
        self,
        tx: AsyncConnection,
        intent: Intent,
        opened: list[OpenedPart],
        tables: list[Operation],
    ) -> dict[str, Any]:
        answer = intent.answer
        for item in opened:
            answer[item.part.section][item.part.index] = await item.apply(tx)
        for table in tables:
            await table.journal(tx)
        key = _plain_key(intent)
        if key is not None:
            effect = Effect(intent.principal.tenant, key, "write", URI)
            await effects.mark(tx, effect)
            await effects.remember(tx, effect, answer)
        return answer

    def _opened(self, intent: Intent, uri: str) -> AbstractAsyncContextManager[Operation]:
        labels = (f"{LABEL}{intent.id}", "recovered")
        return self._operation(
            intent.principal, "write", uri, key=_plain_key(intent), labels=labels
        )


def _plain_key(intent: Intent) -> str | None:
    """Return the key without the lease of a run: what is decided is finished, whoever holds the run now."""
    step = intent.key and parse_key(intent.key)
    return step.key if step else intent.key


def _for_its_run(operation: Operation, intent: Intent) -> Operation:
    """Return an operation whose entries in the journal name the run, as they would have."""
    step = intent.key and parse_key(intent.key)
    if not step:
        return operation
    return replace(operation, lease=Lease(step.run, step.epoch, step.attempt))


@asynccontextmanager
async def keeping_units(recovery: Recovery) -> AsyncGenerator[None]:
    """Settle what is left behind, now and then, while the context is open; any number of processes may."""

    async def keep() -> None:
        while True:
            try:
                await recovery.sweep()
            except (AppError, SQLAlchemyError, OSError) as error:
                logger.warning("units of work are not looked after now: %s", error)
            await asyncio.sleep(EVERY_SECONDS)

    keeper = asyncio.create_task(keep(), name="units")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.wait({keeper})
