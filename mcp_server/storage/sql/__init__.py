"""The SQL engine of the tenants' own tables: its Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Detail = Literal["names", "summary", "full"]


@dataclass(frozen=True, slots=True)
class Checked:
    """One statement that the engine agreed to run.

    `sql` is the text to send; `edited` says that it is not the caller's own. `kind` is the command in
    lower case. `reads` and `writes` are names in the caller's schema. `effects`: it changes or locks
    something, if only a sequence.
    """

    sql: str
    kind: str
    writable: bool
    reads: frozenset[str]
    writes: frozenset[str]
    effects: bool
    edited: bool

    @property
    def repeatable(self) -> bool:
        """Whether running it again, from another row on, continues it."""
        return self.kind == "select" and not self.effects


@dataclass(frozen=True, slots=True)
class Page:
    """How much of the rows to return: after the first `skip`, at most `rows` and about `bytes`."""

    rows: int
    bytes: int
    skip: int = 0


@dataclass(frozen=True, slots=True)
class SqlResult:
    """`columns` are (name, type); `rows` hold JSON values. `more`: rows were left out.

    `row_count` is the number of rows returned, or affected where the statement returns none.
    """

    columns: list[tuple[str, str]]
    rows: list[list[Any]]
    row_count: int
    more: bool


@dataclass(frozen=True, slots=True)
class EffectKey:
    """The key under which a statement is run once; if it is a step's, also its run and attempt."""

    key: str
    run: str | None = None
    attempt: int | None = None


class SqlEngine(Protocol):
    """Runs tenants' statements, each tenant in a schema of its own.

    `schema` is a lower-case identifier that needs no quotes. An engine must keep tenants apart even if a
    statement names another tenant's schema: no row, name or size of another tenant may be seen, changed or
    told from what does not exist. It must not hold a connection between two calls for a caller.
    """

    @property
    def url(self) -> str:
        """The database, by the URL that a tenant's placement names it with."""
        ...

    async def check(self, schema: str, sql: str, *, writable: bool) -> Checked:
        """Return the statement if a tenant may run it; must not run any of it.

        Must raise InvalidInput unless it is exactly one statement, and Forbidden if it uses what is not
        on offer, or writes although `writable` is False.
        """
        ...

    async def run(
        self,
        schema: str,
        statement: Checked,
        params: Sequence[Any],
        page: Page,
        effect: EffectKey | None = None,
    ) -> SqlResult:
        """Run a checked statement in a transaction of its own, committed before it returns.

        With `effect`, the statement must take effect once for this key and text, however often it is
        called and wherever a call breaks off: later calls must return the first one's answer (without
        its rows, if they are very many), concurrent ones must wait for it. It must be refused with
        LeaseLost if its attempt is older than one that `fence` was told of, and with Conflict if the
        same attempt ran it with other `params`.

        Must run it read-only, as a role that can only read, unless it was checked as `writable`. Must
        stop it on the server when the time limit passes (Timeout) or the calling task is cancelled, and
        leave nothing of it behind. Must return at most what `page` says; a single row beyond it is
        LimitExceeded. Must bind `params` as values, never as text.
        """
        ...

    async def fence(self, run: str, attempt: int) -> None:
        """Must refuse every later commit of an effect of this run under a lease older than `epoch`."""
        ...

    async def purge_effects(self, seconds: float) -> int:
        """Must forget effects and fences older than `seconds`, some thousands at a time, and count them."""
        ...

    async def describe(self, schema: str, pattern: str, detail: Detail) -> list[dict[str, Any]]:
        """Return the tables, views and sequences of one schema by name; must show no other's."""
        ...

    async def ping(self) -> None:
        """Must return when the database answers, and raise Unavailable if it does not."""
        ...
