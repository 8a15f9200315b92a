"""Undo of a run: puts back what its writes, and those of the runs that it began, replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import TypedDict

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Conflict, InvalidInput, LimitExceeded, Unavailable
from mcp_server.operation import Operation, Operations
from mcp_server.services.changes import UNDO
from mcp_server.services.runs import RunService
from mcp_server.services.undo import INSTEAD, is_visible
from mcp_server.services.writes import Draft, Versioned, carry_out
from mcp_server.storage.sql.schema import journal

MOST_THINGS = 1000
_TOOL = "tool://run_undo"
_RUN = "run://"

_TREE = text(
    """
    with recursive tree as (
        select id from runs where tenant = :tenant and id = :run
        union
        select runs.id from runs join tree on runs.origin = 'run://' || tree.id
        where runs.tenant = :tenant
    )
    select id from tree
    """
)
# The entries since a run's first one of all that it wrote; the days before it began are not read.
_SINCE = text(
    """
    with own as (
        select uri, min(xid) as first from journal
        where tenant = :tenant and run = any(:runs) and at >= :since and not starts_with(uri, 'run://')
        group by uri limit :most
    )
    select j.xid, j.seq, j.uri, j.verb, j.version, j.prev_version, j.run, j.subject, j.labels
    from journal j join own on j.uri = own.uri and j.xid >= own.first
    where j.tenant = :tenant and j.at >= :since
    order by j.xid, j.seq
    """
).bindparams(bindparam("runs", type_=journal.c.labels.type))


class TakenBack(TypedDict):
    """`changes` of the run were taken back; `restored` is the version that is current again, None if there was none."""

    uri: str
    changes: int
    restored: int | None


class LeftAlone(TypedDict):
    """Why something is as the run left it, or as somebody else did since; `code` is that of an error."""

    uri: str
    code: str
    reason: str


class RunUndone(TypedDict):
    run: str
    preview: bool
    undone: list[TakenBack]
    kept: list[LeftAlone]


@dataclass(frozen=True, slots=True)
class _Chain:
    """The newest changes of one thing, all of the run; `before` is what the first of them replaced."""

    uri: str
    last: str
    before: int | None
    expected: int
    length: int


class RunUndoService:
    """Undoes what runs changed in the stores that keep what their writes replaced."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        runs: RunService,
        stores: Mapping[str, Versioned],
    ) -> None:
        self._operation = operation
        self._control = control
        self._runs = runs
        self._stores = stores

    async def undo(
        self,
        principal: Principal,
        run: str,
        *,
        preview: bool = False,
        idempotency_key: str | None = None,
    ) -> RunUndone:
        """Make current what was there before a run wrote, the newest first; each by itself.

        What somebody else wrote since, and what no earlier version is kept of, is left alone. If this
        breaks off, what was taken back stays so: call it again. With `preview` it tells what it would
        do, and changes nothing.

        Raises:
            NotFound: there is no such run in this tenant. Conflict: it has not ended.
            LimitExceeded: it changed more than 1000 things.
        """
        item = await self._runs.get(principal, run)
        if item["ended_at"] is None:
            raise Conflict(
                f"run {run} has not ended, it is {item['status']}: end it first, with run_cancel"
            )
        opened = self._operation(principal, "write", _TOOL, key=idempotency_key)
        async with opened as operation:
            done = await operation.look(self._control)
            if done is not None:
                return done
            answer = RunUndone(run=run, preview=preview, undone=[], kept=[])
            began = datetime.fromisoformat(item["created_at"] or "")
            for found in await self._found(principal, run, began):
                if isinstance(found, _Chain):
                    await self._take_back(principal, run, found, answer)
                else:
                    answer["kept"].append(found)
            async with self._control.begin() as tx:
                done = await operation.replay(tx)
                return await operation.remember(tx, answer) if done is None else done

    async def _found(
        self, principal: Principal, run: str, began: datetime
    ) -> list[_Chain | LeftAlone]:
        """Read what the run and those below it changed and the caller may see, the newest first."""
        given = {"tenant": principal.tenant, "since": began, "most": MOST_THINGS + 1}
        async with self._control.connect() as tx:
            runs = list((await tx.execute(_TREE, given | {"run": run})).scalars())
            rows = (await tx.execute(_SINCE, given | {"runs": runs})).all()
        things: dict[str, list[Row[Any]]] = {}
        for row in rows:
            things.setdefault(row.uri, []).append(row)
        if len(things) > MOST_THINGS:
            raise LimitExceeded(
                f"run {run} changed more than {MOST_THINGS} things; find them with changes, filtered by "
                "run, and undo those that matter"
            )
        seen = [each for each in things.values() if is_visible(principal, each[-1])]
        newest = sorted(seen, key=lambda each: _place(each[-1]), reverse=True)
        found = [self._of_thing(run, set(runs), entries) for entries in newest]
        return [each for each in found if each is not None]

    def _of_thing(
        self, run: str, runs: set[str], entries: Sequence[Row[Any]]
    ) -> _Chain | LeftAlone | None:
        """Find the run's newest changes of a thing; None if they come to nothing."""
        last = entries[-1]
        if UNDO + run in last.labels:
            return _left(last.uri, Conflict("it is undone already"))
        if last.run not in runs:
            who = f"run {last.run}" if last.run else last.subject
            return _left(
                last.uri, Conflict(f"{who} changed it since; undo that first, or leave it")
            )
        kind = last.uri.partition("://")[0]
        if kind not in self._stores or last.verb not in {"write", "delete"}:
            instead = INSTEAD.get(kind, "only keys, objects and documents have earlier versions")
            return _left(last.uri, InvalidInput(f"{kind}:// cannot be undone: {instead}"))
        length = _length(runs, entries)
        before, expected = entries[-length].prev_version, last.version or 0
        if before is None and not expected:
            if length > 1 and last.verb == "delete":
                return None
            return _left(last.uri, InvalidInput("nothing is kept of what it replaced, or left"))
        return _Chain(last.uri, f"{last.xid}.{last.seq}", before, expected, length)

    async def _take_back(
        self, principal: Principal, run: str, chain: _Chain, answer: RunUndone
    ) -> None:
        store = self._stores[chain.uri.partition("://")[0]]
        labels = (UNDO + chain.last, UNDO + run)
        try:
            draft = await store.draft_restore(principal, chain.uri, chain.before, chain.expected)
            async with self._operation(principal, draft.verb, draft.uri, labels=labels) as op:
                await (self._try if answer["preview"] else self._write)(op, draft)
        except Unavailable:
            raise
        except AppError as error:
            answer["kept"].append(_left(chain.uri, error))
        else:
            answer["undone"].append(
                TakenBack(uri=chain.uri, changes=chain.length, restored=chain.before)
            )

    async def _write(self, op: Operation, draft: Draft) -> None:
        try:
            await carry_out(self._control, op, draft)
        except IntegrityError as error:
            raise Conflict("another call wrote it at the same time") from error

    async def _try(self, op: Operation, draft: Draft) -> None:
        """Apply a draft, and take it back before anybody sees it."""
        try:
            await draft.prepare(op)
            async with self._control.connect() as tx:
                await draft.apply(tx, op)
                await tx.rollback()
        finally:
            await draft.abandon()


def _length(runs: set[str], entries: Sequence[Row[Any]]) -> int:
    """Count the newest entries that are the run's, none of another's among them."""
    others = (number for number, row in enumerate(reversed(entries)) if row.run not in runs)
    return next(others, len(entries))


def _place(entry: Row[Any]) -> tuple[int, int]:
    return int(entry.xid), entry.seq


def _left(uri: str, error: AppError) -> LeftAlone:
    return LeftAlone(uri=uri, code=error.code, reason=error.message)
