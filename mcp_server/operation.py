"""The envelope of every operation on data: decide, meter, journal and audit, in one place."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server import journal, policy
from mcp_server.audit import Audit
from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Timeout, Unavailable
from mcp_server.limits import Limits
from mcp_server.policy import Verb
from mcp_server.storage.sql.control import DISCONNECTED

logger = logging.getLogger(__name__)

# SQLSTATE classes of an engine that cannot go on, such as one whose disk is full:
# https://www.postgresql.org/docs/18/errcodes-appendix.html
_REFUSING = {"53", "57", "58"}

RateOf = Callable[[Principal], str | None]


@dataclass(frozen=True, slots=True)
class Operation:
    """One allowed operation in progress."""

    principal: Principal
    verb: Verb
    uri: str
    key: str | None = None
    deadline: float | None = None
    labels: tuple[str, ...] = ()
    run: str | None = None

    async def journal(
        self,
        connection: AsyncConnection,
        *,
        uri: str | None = None,
        verb: str | None = None,
        version: int | None = None,
        prev_version: int | None = None,
    ) -> None:
        """Journal one change in the transaction that makes it."""
        await journal.append(
            connection,
            tenant=self.principal.tenant,
            subject=self.principal.subject,
            verb=verb or self.verb,
            uri=uri or self.uri,
            version=version,
            prev_version=prev_version,
            run=self.run,
            step=self.key,
            labels=list(self.labels),
        )


class Operations:
    """Opens operations. Services hold one and call it; nothing else decides, meters or audits."""

    def __init__(self, limits: Limits, audit: Audit, rate_of: RateOf = lambda _: None) -> None:
        self._limits = limits
        self._audit = audit
        self._rate_of = rate_of

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
    ) -> AsyncGenerator[Operation]:
        """Run the body as one operation.

        `deadline` is in the event loop's time (`loop.time()`). `metered` is for requests that arrive at
        a door: what they do inside is not counted again.

        Raises:
            Forbidden: policy says no. LimitExceeded: the caller's rate is used up.
            Timeout: the deadline passed. Unavailable: the control database went away.
        """
        begun = time.perf_counter_ns()
        outcome = "ok"
        if egress:
            labels = (*labels, "egress")
        try:
            if metered:  # first: what is refused is a request as well
                await self.meter(principal)
            policy.require(principal, verb, uri)
            async with asyncio.timeout_at(deadline):
                yield Operation(principal, verb, uri, key, deadline, labels)
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


def _unavailable(error: Exception) -> AppError | None:
    """Tell a lost or refusing engine from a defect of ours."""
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    state: str = getattr(getattr(error, "orig", error), "sqlstate", None) or ""
    if lost or state[:2] in _REFUSING or isinstance(error, DISCONNECTED):
        logger.warning("an engine does not answer: %s", error)
        return Unavailable("an engine does not answer; try again")
    return None
