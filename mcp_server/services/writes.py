"""One write as a draft: checked, prepared, and applied inside a transaction that may hold others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError
from mcp_server.operation import Operation
from mcp_server.policy import Verb


@dataclass(frozen=True, slots=True)
class Record:
    """A prepared draft as JSON, from which another process can apply the same write.

    It holds no conditions: whoever reads it finishes what was decided. `blobs` are the keys of blobs
    that it needs; the collector leaves them alone while the unit of work lives that holds the record.
    """

    content: dict[str, Any]
    blobs: tuple[str, ...] = ()


class Draft(Protocol):
    """One write to one URI: its arguments are checked and its name is known, and nothing is done yet.

    Whoever holds it opens the operation `verb` on `uri`, which decides, then calls `prepare`, then
    `apply` in one transaction, alone or with other drafts in the order of their URIs. It replays and
    remembers idempotency keys too: `apply` must not. `effect` tells a key's effects on one URI apart:
    "write" or "delete", as the journal calls it.
    """

    @property
    def uri(self) -> str: ...

    @property
    def verb(self) -> Verb: ...

    @property
    def effect(self) -> str: ...

    async def prepare(self, op: Operation) -> None:
        """Do whatever is slow: upload, parse, embed. Must make nothing visible and hold no connection.

        Must be called before `apply`, once. Conditions may be looked at to spare the work.
        """
        ...

    async def apply(self, tx: AsyncConnection, op: Operation) -> dict[str, Any]:
        """Write and journal in `tx`, and return the public method's answer, which is JSON.

        Must lock what it changes until the end of `tx`, and must journal through `op` whatever it
        changes, and nothing else: an apply that journals nothing has changed nothing.

        Raises:
            Conflict: a condition does not hold, decided under the lock.
        """
        ...

    async def abandon(self) -> None:
        """Give back what `prepare` made, or began to: certainly nothing of it was committed.

        Must not raise for what a collector will find anyway.
        """
        ...

    def record(self) -> Record:
        """Return the prepared write; called after `prepare`."""
        ...


class Versioned(Protocol):
    """A service whose writes can be undone and belong to units of work.

    `uri` is one that the service itself journalled; it alone knows how its names stand in it.
    """

    async def draft_restore(
        self, principal: Principal, uri: str, version: int | None, expected: int
    ) -> Draft:
        """Return the draft that makes `version` current again, or deletes what is there if it is None.

        `expected` is the version that must be current, 0 that nothing must be there. `prepare` or
        `apply` raise Conflict "changed since, version is M" if another is, and Conflict saying so if
        `version` is not kept any more.
        """
        ...

    async def draft_recorded(self, principal: Principal, uri: str, record: Record) -> Draft:
        """Return the draft of a record; it is prepared and applied as any other, without conditions.

        Must not need a model again.
        """
        ...


async def carry_out(control: AsyncEngine, op: Operation, draft: Draft) -> dict[str, Any]:
    """Prepare one draft and apply it in a transaction of its own; with a key, once.

    For answers that may be stored as they are; a service whose answers are large remembers its own.
    """
    done = await op.look(control, draft.effect)
    if done is not None:
        return done
    try:
        await draft.prepare(op)
        async with control.begin() as tx:
            done = await op.replay(tx, draft.effect)
            if done is None:
                answer = await draft.apply(tx, op)
                return await op.remember(tx, answer, draft.effect)
    except AppError:  # rolled back for certain; after anything else what was prepared may be in use
        await draft.abandon()
        raise
    await draft.abandon()  # a twin was faster
    return done
