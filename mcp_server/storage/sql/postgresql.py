"""The tenants' own SQL on PostgreSQL 15 and newer: a login role, a schema and a read-only twin per tenant."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp_server.errors import Unavailable
from mcp_server.storage.sql import (
    Checked,
    EffectKey,
    Page,
    SqlPreview,
    SqlResult,
    Wanted,
)
from mcp_server.storage.sql.connections import Connections, Role
from mcp_server.storage.sql.execution import (
    BATCH_BYTES,
    BROKEN,
    FIXED_SETTINGS,
    Execution,
    bounded,
)
from mcp_server.storage.sql.owner import Owner
from mcp_server.storage.sql.tenant_effects import Mark
from mcp_server.storage.sql.tenant_unit import TenantUnits
from mcp_server.storage.sql.unit import UnitEngine
from mcp_server.storage.sql.values import PgType
from mcp_server.storage.sql.wire import ConnectionLost, LoginRefused, Session

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Statement:
    """One call of `run` or `preview`; `mark` is there if it is an effect that is done once."""

    execution: Execution
    mark: Mark | None = None

    @property
    def checked(self) -> Checked:
        return self.execution.checked

    @property
    def begin(self) -> str:
        if not self.checked.writable or (
            self.checked.kind == "explain" and not self.checked.effects
        ):
            return "begin read only"
        # A marked statement must see what its twin has committed while it waited for it.
        return "begin" if self.mark is None else "begin isolation level read committed"


@asynccontextmanager
async def open_postgresql(
    data_url: str,
    secret: bytes,
    *,
    connections: int = 32,
    timeout_seconds: float = 30.0,
    beside_us: bool = False,
) -> AsyncGenerator[PostgresqlEngine]:
    """Yield the engine; it connects on first use.

    `data_url` names a database that is this server's alone, and a role that owns it and may create
    roles. The tenants' passwords are derived from `secret`. `beside_us`: see `Connections`.
    """
    owner = Owner(data_url, secret)
    engine = PostgresqlEngine(data_url, owner, connections, timeout_seconds, beside_us=beside_us)
    try:
        yield engine
    finally:
        await engine.aclose()
        await owner.aclose()


class PostgresqlEngine:
    """See `SqlEngine`. Made by `open_postgresql`."""

    def __init__(
        self,
        data_url: str,
        owner: Owner,
        connections: int,
        timeout_seconds: float,
        *,
        beside_us: bool = False,
    ) -> None:
        self._data_url = data_url
        self._owner = owner
        self._timeout = timeout_seconds
        self._connections = Connections(self._connect, connections, beside_us=beside_us)
        self.units: UnitEngine = TenantUnits(owner, self._connections, timeout_seconds)

    @property
    def url(self) -> str:
        return self._data_url

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def ping(self) -> None:
        await self._owner.ping()

    async def check(self, schema: str, sql: str, *, writable: bool) -> Checked:
        # The parser costs a tenth of a second to import, and not every start runs SQL.
        from mcp_server.storage.sql.statements.check import check

        known = await self._owner.catalog()
        return check(sql, schema, writable=writable, reserved=known.reserved)

    async def describe(self, schema: str, wanted: Wanted) -> tuple[list[dict[str, Any]], bool]:
        return await self._owner.describe(schema, wanted)

    async def fence(self, run: str, attempt: int) -> None:
        await self._owner.fence(run, attempt)

    async def purge_effects(self, seconds: float) -> int:
        return await self._owner.purge_effects(seconds)

    async def erase(self, schema: str) -> None:
        """Leave nothing of a tenant."""
        await self._owner.erase(schema)

    async def left(self, schema: str) -> dict[str, int]:
        """Count what is there of a tenant, by kind."""
        return await self._owner.left(schema)

    async def run(
        self,
        schema: str,
        statement: Checked,
        params: Sequence[Any],
        page: Page,
        effect: EffectKey | None = None,
    ) -> SqlResult:
        mark = self._mark(schema, statement, params, effect)
        call = _Statement(self._execution(schema, statement, params, page), mark)

        async def once(session: Session) -> SqlResult:
            result = await _once(session, call)
            await session.command("commit")
            return result

        async with bounded(self._timeout, schema, statement):
            return await self._run(call, once)

    async def preview(
        self,
        schema: str,
        statement: Checked,
        params: Sequence[Any],
        page: Page,
        *,
        sample: bool,
    ) -> SqlPreview:
        execution = self._execution(schema, statement, params, page)

        async def once(session: Session) -> SqlPreview:
            shown = await execution.preview(session, sample=sample)
            await session.command("rollback")
            return shown

        async with bounded(self._timeout, schema, statement):
            return await self._run(_Statement(execution), once)

    def _execution(
        self, schema: str, statement: Checked, params: Sequence[Any], page: Page
    ) -> Execution:
        async def types(oids: set[int]) -> dict[int, PgType]:
            return await self._owner.types(schema, oids)

        return Execution(schema, statement, params, page, types)

    def _mark(
        self, schema: str, statement: Checked, params: Sequence[Any], effect: EffectKey | None
    ) -> Mark | None:
        if effect is None or not statement.effects:
            return None
        return Mark.of(self._owner.roles.proof(schema), effect, statement.sql, params)

    async def _run(self, call: _Statement, once: Callable[[Session], Awaitable[T]]) -> T:
        """Run `once` in a transaction, which it ends itself."""
        schema = call.execution.schema
        role = Role(schema, call.checked.writable)
        for last in (False, True):
            begun = False
            try:
                async with self._connections.borrow(role) as session:
                    await session.command(call.begin)
                    begun = True
                    return await once(session)
            except LoginRefused as error:
                if last:
                    raise Unavailable("the data database refuses this tenant's role") from error
                await self._owner.ensure(schema, renew=True)
            except ConnectionLost as error:
                if begun and call.checked.effects:
                    raise Unavailable(BROKEN) from error
                # An idle connection may have died with a restart of the server; a new one has not.
                if begun or last:
                    raise Unavailable("the data database does not answer; try again") from error
        raise AssertionError("unreachable")

    async def _connect(self, role: Role) -> Session:
        await self._owner.ensure(role.schema)
        milliseconds = int(self._timeout * 1000)
        settings = FIXED_SETTINGS | {
            "search_path": role.schema,
            "default_transaction_read_only": "off" if role.writable else "on",
            # Behind the client's own limit, in case the client dies.
            "statement_timeout": str(milliseconds + 1000),
        }
        return await Session.open(
            self._data_url,
            self._owner.roles.name(role),
            self._owner.roles.password(role),
            settings,
            limit=BATCH_BYTES,
        )


async def _once(session: Session, call: _Statement) -> SqlResult:
    """Run the statement, unless its mark says that it has run."""
    if call.mark is None:
        return await call.execution.answer(session)
    done = await call.mark.begin(session)
    if done is not None:
        return done
    result = await call.execution.answer(session)
    await call.mark.finish(session, result)
    return result
