"""What the journal says of one statement: an intent before it, and its outcome after it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.operation import Operation
from mcp_server.runs.fence import parse_key
from mcp_server.storage.sql.standstill import pass_gate

logger = logging.getLogger(__name__)

_SETTLE_SECONDS = 10.0
_AGAIN_SECONDS = 0.2


def label(key: str | None, sql: str) -> str:
    """Return what ties the entries of one statement together; with a key it is the same in every try."""
    if key is None:
        return f"statement:{secrets.token_hex(8)}"
    step = parse_key(key)
    identity = f"{step.key if step is not None else key}\0{sql}"
    return f"statement:{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


class StatementJournal:
    """The entries of one statement: one for each of the operations, which write a table each.

    With a key, each entry is written once, by whichever try comes to it first.
    """

    def __init__(
        self, control: AsyncEngine, operations: Sequence[Operation], statement: str
    ) -> None:
        self._control = control
        self._operations = operations
        self._statement = statement
        self._first = operations[0]  # the marks are the statement's, not a table's

    async def answered(self) -> Any | None:
        """Return what `settle` stored under the key for this statement, if it is done.

        Raises:
            LeaseLost: the run is not the caller's any more.
        """
        return await self._first.look(self._control, self._statement)

    async def intend(self) -> bool:
        """Journal that the statement is about to run; tell whether no try with this key did so yet.

        Raises:
            LeaseLost: the run is not the caller's any more.
        """
        async with self._control.begin() as tx:
            await pass_gate(tx)
            new = await self._first.first(tx, "intent", self._statement)
            if new:
                for operation in self._operations:
                    await operation.journal(tx, verb="intent")
        return new

    async def settle(self, verb: Literal["write", "abort"], answer: Any = None) -> None:
        """Journal the outcome, also when the caller goes away meanwhile; the statement has run already.

        `answer`, if given, is stored for `answered`, if there is a key.

        Raises:
            LeaseLost: the run is not the caller's any more; whoever holds it settles.
        """
        await asyncio.shield(asyncio.create_task(self._settled(verb, answer)))

    async def _settled(self, verb: str, answer: Any) -> None:
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                while True:
                    try:
                        return await self._settle(verb, answer)
                    except (SQLAlchemyError, OSError):
                        if self._first.key is None:  # once more could be once too often
                            raise
                        await asyncio.sleep(_AGAIN_SECONDS)
        except (SQLAlchemyError, OSError, TimeoutError):
            # The caller gets the statement's own outcome: an error here would make it run twice.
            logger.exception("the outcome of a statement could not be journalled")

    async def _settle(self, verb: str, answer: Any) -> None:
        async with self._control.begin() as tx:
            if verb == "abort":
                new = await self._withdraw(tx)
            else:
                new = await self._first.first(tx, "settle", self._statement)
            if new:
                for operation in self._operations:
                    await operation.journal(tx, verb=verb)
                if answer is not None and await self._first.first(tx, self._statement):
                    await self._first.remember(tx, answer, self._statement)

    async def _withdraw(self, tx: AsyncConnection) -> bool:
        """Take the mark of the intent back, so that another try has its own.

        False if a twin did, or the intent is of one that was written: this one was refused beside it.
        """
        await self._first.hold(tx)
        if not await self._first.first(tx, "settle", self._statement):
            return False
        await self._first.forget(tx, "settle", self._statement)
        return await self._first.forget(tx, "intent", self._statement)
