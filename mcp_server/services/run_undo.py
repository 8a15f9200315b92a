"""Undo of a run: takes back all that it and the runs below it wrote, where nobody wrote since."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typing_extensions import TypedDict

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import (
    AppError,
    Conflict,
    Forbidden,
    InvalidInput,
    LeaseLost,
    LimitExceeded,
    NotFound,
)
from mcp_server.operation import Operation, Operations
from mcp_server.runs.record import Run
from mcp_server.services.changes import UNDO
from mcp_server.services.run_access import RunAccess
from mcp_server.services.run_chains import (
    Chain,
    chain_of,
    is_versioned,
    position_of,
    took_effect,
)
from mcp_server.services.run_writes import RunWrites
from mcp_server.services.undo import INSTEAD, is_visible
from mcp_server.services.writes import Draft, Versioned

URI = "tool://run_undo"
MOST_THINGS = 1000
_OUTSIDE = "what it gave out of this server cannot be taken back; run_trace shows its calls"


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
    """What was taken back, the newest first, and what was not; of a preview, what would be."""

    run: str
    preview: bool
    undone: list[TakenBack]
    kept: list[LeftAlone]


@dataclass(slots=True)
class _Plan:
    """What is to be taken back in one transaction; `kept` and `undone` grow while it is tried."""

    op: Operation
    run: str
    preview: bool
    drafts: list[tuple[Chain, Draft]] = field(default_factory=list[tuple[Chain, Draft]])
    undone: dict[str, Chain] = field(default_factory=dict[str, Chain])
    kept: dict[str, AppError] = field(default_factory=dict[str, AppError])

    @contextmanager
    def keeping(self, uri: str) -> Generator[None]:
        """Let what stands against one URI keep that one only."""
        try:
            yield
        except LeaseLost:
            raise
        except (Conflict, Forbidden, InvalidInput, NotFound) as error:
            self.kept[uri] = error
        except IntegrityError:
            self.kept[uri] = Conflict("another call wrote it at the same time")

    def answer(self) -> RunUndone:
        newest_first = sorted(self.undone.values(), key=_newest, reverse=True)
        return RunUndone(
            run=self.run,
            preview=self.preview,
            undone=[_taken_back(chain) for chain in newest_first],
            kept=[_left(uri, error) for uri, error in sorted(self.kept.items())],
        )

    async def abandon(self) -> None:
        """Give back what was prepared for whatever is not undone."""
        for chain, draft in self.drafts:
            if chain.uri not in self.undone:
                await draft.abandon()


class RunUndoService:
    """Undoes runs in the stores that keep what their writes replaced, by the scheme of their URIs."""

    def __init__(
        self,
        operation: Operations,
        control: AsyncEngine,
        access: RunAccess,
        writes: RunWrites,
        stores: Mapping[str, Versioned],
    ) -> None:
        self._operation = operation
        self._control = control
        self._access = access
        self._writes = writes
        self._stores = stores

    async def undo(
        self,
        principal: Principal,
        run: str,
        *,
        preview: bool = False,
        idempotency_key: str | None = None,
        deadline: float | None = None,
    ) -> RunUndone:
        """Take back what an ended run and all that it began wrote, in one transaction.

        Each thing comes back as it was before the run's newest writes that nobody else's stand between;
        what cannot be is kept, and named with the reason. Each is a change of its own, which can be
        undone. A `preview` does the same, and rolls it back.

        Raises:
            NotFound: there is no such run, or the caller may not see it.
            Conflict: it, or a run that it began, has not ended.
            Forbidden: the caller may write nothing.
            LimitExceeded: it began over 1,000 runs, changed over 1,000 things, or wrote over 10,000 times.
        """
        async with self._access.opening(principal, "read", run) as (_, found):
            family = await self._writes.family(found)
        operation = self._operation(
            *(principal, "write", URI),
            key=None if preview else idempotency_key,
            deadline=deadline,
            labels=("preview",) if preview else (),
        )
        async with operation as op:
            done = await op.look(self._control)
            if done is not None:
                return done
            plan, chains = await self._planned(op, found, family, preview=preview)
            try:
                await self._prepare(plan, chains)
                answer = await self._carry_out(plan, idempotency_key)
            except AppError:  # rolled back for certain
                plan.undone.clear()
                await plan.abandon()
                raise
            await plan.abandon()
            return answer

    async def _planned(
        self, op: Operation, run: Run, family: Mapping[str, str], *, preview: bool
    ) -> tuple[_Plan, list[Chain]]:
        """Return what can be tried, in the order in which everybody locks, and why the rest cannot."""
        plan, chains = _Plan(op, run.id, preview), list[Chain]()
        things = await self._writes.entries(run, family)
        if len(things) > MOST_THINGS:
            raise LimitExceeded(
                f"run {run.id} changed more than {MOST_THINGS} things; find them with changes, "
                "filtered by run, and undo those that matter"
            )
        for uri, entries in things.items():
            theirs = [entry for entry in entries if entry.run in family]
            if not is_visible(op.principal, theirs[-1]):
                continue
            found = self._chain(uri, entries, theirs, family)
            if isinstance(found, Chain):
                chains.append(found)
            elif found is not None:
                plan.kept[uri] = found
        async for tool in self._writes.sent_out(family):
            plan.kept[f"tool://{tool}"] = InvalidInput(_OUTSIDE)
        return plan, sorted(chains, key=lambda chain: chain.uri)

    def _chain(
        self,
        uri: str,
        entries: Sequence[Row[Any]],
        theirs: Sequence[Row[Any]],
        family: Mapping[str, str],
    ) -> Chain | AppError | None:
        if uri.partition("://")[0] not in self._stores or not any(map(is_versioned, theirs)):
            return _unversioned(uri) if took_effect(theirs) else None
        found = chain_of([entry for entry in entries if is_versioned(entry)], family)
        return None if isinstance(found, Chain) and not found.changed else found

    async def _prepare(self, plan: _Plan, chains: Sequence[Chain]) -> None:
        for chain in chains:
            with plan.keeping(chain.uri):
                draft = await self._draft(plan.op.principal, chain)
                plan.drafts.append((chain, draft))
                # What is not allowed is refused, and audited, by its own operation.
                if policy.allows(plan.op.principal, draft.verb, draft.uri):
                    await draft.prepare(plan.op)

    async def _draft(self, principal: Principal, chain: Chain) -> Draft:
        store = self._stores[chain.uri.partition("://")[0]]
        return await store.draft_restore(
            principal, chain.uri, chain.restores, chain.newest.version or 0
        )

    async def _carry_out(self, plan: _Plan, key: str | None) -> RunUndone:
        """Apply what was prepared, each draft within a savepoint, in one transaction."""
        async with self._control.connect() as tx:  # rolled back when it is closed
            done = await plan.op.replay(tx)
            if done is not None:
                return done
            for chain, draft in plan.drafts:
                if chain.uri not in plan.kept:
                    with plan.keeping(chain.uri):
                        await self._apply(tx, plan, chain, draft, key)
            answer = plan.answer()
            if plan.preview:
                plan.undone.clear()
                return answer
            await plan.op.remember(tx, answer)
            await tx.commit()
        return answer

    async def _apply(
        self, tx: AsyncConnection, plan: _Plan, chain: Chain, draft: Draft, key: str | None
    ) -> None:
        # Its state is that before the first of the chain, so it is the first that was undone.
        labels = (*plan.op.labels, UNDO + position_of(chain.first))
        operation = self._operation(
            *(plan.op.principal, draft.verb, draft.uri), key=key, labels=labels
        )
        async with operation as op, tx.begin_nested():
            await draft.apply(tx, op)
        plan.undone[chain.uri] = chain


def _newest(chain: Chain) -> tuple[int, int]:
    return int(chain.newest.xid), int(chain.newest.seq)


def _taken_back(chain: Chain) -> TakenBack:
    return TakenBack(uri=chain.uri, changes=chain.length, restored=chain.restores)


def _left(uri: str, error: AppError) -> LeftAlone:
    return LeftAlone(uri=uri, code=error.code, reason=error.message)


def _unversioned(uri: str) -> InvalidInput:
    kind = uri.partition("://")[0]
    instead = INSTEAD.get(kind, "only keys, objects and documents have earlier versions")
    return InvalidInput(f"{kind}:// cannot be undone: {instead}")
