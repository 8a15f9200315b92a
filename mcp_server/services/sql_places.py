"""Where a statement runs: the caller's own schema, or a database that the operator configured by name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Forbidden, NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.placement import Placements
from mcp_server.storage.sql import Checked, OutsideDatabase, SqlDatabase, SqlEngine

# How the caller's own schema is called in every URI and statement.
MAIN = "main"


@dataclass(frozen=True, slots=True)
class Place:
    """`base` begins the URI of each of its tables; `name` is None for the caller's own schema."""

    database: SqlDatabase
    schema: str
    base: str
    name: str | None = None
    writable: bool = True

    async def check(self, sql: str, *, writable: bool) -> Checked:
        """Return the statement if it may run here.

        Raises:
            Forbidden: it writes, and the tool or the database is for reading only.
        """
        checked = await self.database.check(self.schema, sql, writable=writable)
        if not writable or self.writable:
            return checked
        if checked.effects:
            raise Forbidden(
                f"database: {self.name!r} is read-only here; its operator may set mode=rw",
                param="database",
            )
        return await self.database.check(self.schema, sql, writable=False)


class Places:
    """Finds the place of a call."""

    def __init__(self, engine: SqlEngine, outside: Mapping[str, OutsideDatabase]) -> None:
        self._engines = {engine.url: engine}
        self._place = Placements(engine.url)
        self._outside = outside

    @property
    def engines(self) -> list[SqlEngine]:
        return list(self._engines.values())

    def __call__(self, principal: Principal, database: str | None) -> Place:
        """Return the place that `database` names, None for the caller's own.

        Raises:
            NotFound: there is none, or the caller's scopes do not name it: both answer alike.
        """
        if database is None or database == MAIN:
            placement = self._place(principal.tenant)
            return Place(self._engines[placement.url], placement.schema, f"sql://{MAIN}/")
        outside = self._outside.get(database)
        base = policy.Listing(
            f"sql://{database}/"
        )  # a name with a slash is none that is configured
        if outside is None or not any(
            policy.allows(principal, verb, base) for verb in ("read", "write")
        ):
            raise NotFound(
                f"database: {database[:80]!r} is not configured, or no scope of this key names it; "
                "leave it out for your own tables",
                param="database",
            )
        return Place(outside.database, outside.schema, base, database, outside.writable)


@dataclass(frozen=True, slots=True)
class Statement:
    """One checked statement of a caller, and the operations that it is."""

    operation: Operations
    principal: Principal
    place: Place
    checked: Checked
    deadline: float | None
    key: str | None = None
    labels: tuple[str, ...] = field(default=())

    @property
    def may_sample(self) -> bool:
        """Whether the caller may also read all that the statement writes."""
        return all(
            policy.allows(self.principal, "read", self.place.base + name)
            for name in self.checked.writes
        )

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[list[Operation]]:
        """Open the operations of the statement; yield those that write."""
        checked, base = self.checked, self.place.base
        uris: list[tuple[policy.Verb, str]] = [
            *(("write", base + name) for name in sorted(checked.writes)),
            *(("read", base + name) for name in sorted(checked.reads)),
            *(("write", base + name) for name in sorted(checked.opens - checked.writes)),
        ]
        if checked.effects and not checked.writes:
            uris.append(("write", policy.Listing(base)))  # locks rows or moves a sequence
        if not uris:
            uris.append(("read", policy.Listing(base)))
        async with AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(
                    self.operation(
                        *(self.principal, verb, uri),
                        key=self.key,
                        deadline=self.deadline,
                        labels=self.labels,
                        egress=self.place.name is not None,
                    )
                )
                for verb, uri in uris
            ]
            yield opened[: len(checked.writes)]


async def check(
    operation: Operations, principal: Principal, place: Place, sql: str, *, writable: bool
) -> Checked:
    """Return the statement if it may run there.

    Raises:
        AppError: it may not; the audit has it.
    """
    try:
        return await place.check(sql, writable=writable)
    except AppError:
        # A refused statement names no table that could be trusted: the audit shows it on all.
        verb = "write" if writable else "read"
        async with operation(principal, verb, policy.Listing(place.base)):
            raise
