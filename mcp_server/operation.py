"""The envelope of every operation on data: decide, meter, journal and audit, in one place."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import journal, policy
from mcp_server.audit import Audit
from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Timeout, Unavailable
from mcp_server.limits import Limits
from mcp_server.policy import Verb
from mcp_server.runs.fence import parse_key
from mcp_server.storage.sql import effects
from mcp_server.storage.sql.control import DISCONNECTED
from mcp_server.storage.sql.effects import Effect, Lease

logger = logging.getLogger(__name__)

# SQLSTATE classes of an engine that cannot go on, such as one whose disk is full, or that rolled a
# transaction back for another's sake: https://www.postgresql.org/docs/18/errcodes-appendix.html
_REFUSING = {"40", "53", "57", "58"}
_IDLE_IN_TRANSACTION = "25P03"  # the process stood still in the middle of it

# What changes something, so that whoever follows the journal should look.
_CHANGING = {"write", "run"}

_UNTIMED = nullcontext()

RateOf = Callable[[Principal], str | None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation:
    """One allowed operation in progress.

    `key` makes it an effect that is done once: whatever is written under one key to one URI with one
    verb is written once. `lease` is of the run that the key is a step of, and fences it.
    """

    principal: Principal
    verb: Verb
    uri: str
    key: str | None = None
    deadline: float | None = None
    labels: tuple[str, ...] = ()
    lease: Lease | None = None

    async def look(self, control: AsyncEngine, verb: str | None = None) -> Any | None:
        """Return what the key's effect answered, if it is done; for calls whose work is dear.

        Raises:
            LeaseLost: the run is not the caller's any more.
        """
        effect = self._effect(verb, None)
        if effect is None:
            return None
        async with control.connect() as connection:
            return await effects.look(connection, effect)

    async def hold(self, tx: AsyncConnection) -> None:
        """Keep the run of a step under its lease until `tx` ends.

        Raises:
            LeaseLost: the run is not the caller's any more.
        """
        if self.lease is not None:
            await effects.hold(tx, self.principal.tenant, self.lease)

    async def replay(self, tx: AsyncConnection, verb: str | None = None) -> Any | None:
        """Return what the key's effect answered, or None if `tx` is to do it, and `remember` its answer.

        To be called first in the transaction of the effect: a concurrent call with the same key waits
        here for the other's commit.

        Raises:
            LeaseLost: the run is not the caller's any more.
        """
        if await self.first(tx, verb):
            return None
        effect = self._effect(verb, None)
        answer = effect and await effects.stored(tx, effect)
        if answer is None:
            raise Unavailable("the mark of this idempotency key has just been removed; try again")
        return answer

    async def remember(self, tx: AsyncConnection, answer: T, verb: str | None = None) -> T:
        """Store the answer, a JSON value but null, of the effect that `tx` does; return it."""
        effect = self._effect(verb, None)
        if effect is not None:
            await effects.remember(tx, effect, answer)
        return answer

    async def first(
        self, tx: AsyncConnection, verb: str | None = None, uri: str | None = None
    ) -> bool:
        """Mark an effect without an answer, and tell whether it is new; without a key it always is.

        Raises:
            LeaseLost: the run is not the caller's any more.
        """
        effect = self._effect(verb, uri)
        return effect is None or await effects.mark(tx, effect)

    async def forget(
        self, tx: AsyncConnection, verb: str | None = None, uri: str | None = None
    ) -> bool:
        """Take the mark of `first` back, and tell whether it was there; without a key it always was."""
        effect = self._effect(verb, uri)
        return effect is None or await effects.forget(tx, effect)

    def _effect(self, verb: str | None, uri: str | None) -> Effect | None:
        if self.key is None:
            return None
        tenant = self.principal.tenant
        return Effect(tenant, self.key, verb or self.verb, uri or self.uri, self.lease)

    async def journal(
        self,
        connection: AsyncConnection,
        *,
        uri: str | None = None,
        verb: str | None = None,
        version: int | None = None,
        prev_version: int | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        """Journal one change in the transaction that makes it; `labels` are added to the operation's."""
        await journal.append(
            connection,
            tenant=self.principal.tenant,
            subject=self.principal.subject,
            verb=verb or self.verb,
            uri=uri or self.uri,
            version=version,
            prev_version=prev_version,
            run=self.lease.run if self.lease else None,
            step=self.key,
            labels=[*self.labels, *labels],
        )


class Operations:
    """Opens operations. Services hold one and call it; nothing else decides, meters or audits.

    `changed` is called after each operation that may have written to the journal; it must not block.
    """

    def __init__(
        self,
        limits: Limits,
        audit: Audit,
        rate_of: RateOf = lambda _: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits = limits
        self._audit = audit
        self._rate_of = rate_of
        self._changed = changed
        self._watchers: list[Callable[[str, str], None]] = []

    def watch(self, watcher: Callable[[str, str], None]) -> None:
        """Call `watcher` with the verb and the outcome of each operation that ends; it must not block."""
        self._watchers.append(watcher)

    def _tell(self, verb: Verb, outcome: str) -> None:
        for watcher in self._watchers:
            watcher(verb, outcome)

    async def meter(self, principal: Principal) -> None:
        """Count one request that names nothing to operate on.

        Raises:
            LimitExceeded: the caller's rate is used up.
        """
        await self._limits.count(principal, self._rate_of(principal))

    @asynccontextmanager
    async def __call__(
        self,
        principal: Principal,
        verb: Verb,
        uri: str,
        *,
        key: str | None = None,
        deadline: float | None = None,
        egress: bool = False,
        labels: tuple[str, ...] = (),
        metered: bool = False,
        changes: bool = True,
    ) -> AsyncGenerator[Operation]:
        """Run the body as one operation.

        `deadline` is in the event loop's time (`loop.time()`). `metered` is for requests that arrive at
        a door: what they do inside is not counted again. `changes` is False of one that writes nothing but
        in operations of its own inside. `key` is an idempotency key, or a step's key of
        a run (`runs.fence`), which its lease fences.

        Raises:
            Forbidden: policy says no. LimitExceeded: the caller's rate is used up.
            Timeout: the deadline passed. Unavailable: the control database went away.
        """
        begun = time.perf_counter_ns()
        outcome = "ok"
        if egress:
            labels = (*labels, policy.EGRESS)
        try:
            if metered:  # first: what is refused is a request as well
                await self.meter(principal)
            policy.require(principal, verb, uri)
            async with _UNTIMED if deadline is None else asyncio.timeout_at(deadline):
                yield _operation(principal, verb, uri, key, deadline, labels)
        except AppError as error:
            outcome = error.code
            raise
        except TimeoutError as error:
            outcome = Timeout.code
            raise Timeout(f"the deadline passed before {verb} {uri} was done") from error
        except (SQLAlchemyError, *DISCONNECTED) as error:
            failure = _unavailable(error)
            outcome = failure.code if failure else "internal"
            if failure is None:
                raise
            raise failure from error
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except BaseException:
            outcome = "internal"
            raise
        finally:
            micros = (time.perf_counter_ns() - begun) // 1000
            self._audit.record(principal, verb, uri, outcome, micros, labels)
            self._tell(verb, outcome)
            if changes and outcome == "ok" and verb in _CHANGING:
                self._changed()


def _operation(
    principal: Principal,
    verb: Verb,
    uri: str,
    key: str | None,
    deadline: float | None,
    labels: tuple[str, ...],
) -> Operation:
    step = parse_key(key) if key is not None else None
    if step is None:
        return Operation(principal, verb, uri, key, deadline, labels)
    return Operation(
        principal, verb, uri, step.key, deadline, labels, Lease(step.run, step.epoch, step.attempt)
    )


def _unavailable(error: Exception) -> AppError | None:
    """Tell a lost or refusing engine from a defect of ours."""
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    state: str = getattr(getattr(error, "orig", error), "sqlstate", None) or ""
    refused = state[:2] in _REFUSING or state == _IDLE_IN_TRANSACTION
    if lost or refused or isinstance(error, DISCONNECTED):
        logger.warning("an engine does not answer: %s", error)
        return Unavailable("an engine does not answer; try again")
    return None
