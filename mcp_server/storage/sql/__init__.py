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
    lower case. `reads` and `writes` are names in the caller's schema; `opens` are those that it makes a way
    to write to, or `*` if it may cascade to any. `effects`: it changes or locks
    something, if only a sequence; `draws`: it moves a sequence by name, which no rollback takes back.
    """

    sql: str
    kind: str
    writable: bool
    reads: frozenset[str]
    writes: frozenset[str]
    effects: bool
    edited: bool
    draws: bool = False
    opens: frozenset[str] = frozenset()

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
class Wanted:
    """Which tables to describe, and how: `*` and `%` in `pattern` stand for anything, `?` for one character.

    `every`: those of all schemas that the connection's own role may read, not of one schema only.
    """

    pattern: str = "*"
    detail: Detail = "summary"
    exact: bool = False
    every: bool = False


@dataclass(frozen=True, slots=True)
class EffectKey:
    """The key under which a statement is run once; if it is a step's, also its run and attempt."""

    key: str
    run: str | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class SqlChange:
    """One row as it was and as it would be, with None where there is none."""

    before: list[Any] | None
    after: list[Any] | None


@dataclass(frozen=True, slots=True)
class SqlPreview:
    """What a statement answered before it was taken back, with `row_count` over all its rows.

    `changes` hold some of the rows it changed, of these `columns`, if it has no rows of its own.
    """

    result: SqlResult
    columns: list[tuple[str, str]]
    changes: list[SqlChange]
    more: bool


class SqlDatabase(Protocol):
    """Runs checked statements in a database.

    `schema` is where unqualified names are looked up, a lower-case identifier that needs no quotes. It
    must not hold a connection between two calls for a caller.
    """

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

    async def preview(
        self,
        schema: str,
        statement: Checked,
        params: Sequence[Any],
        page: Page,
        *,
        sample: bool,
    ) -> SqlPreview:
        """Must run the statement as `run` does, within the same limits, and take it back.

        Only what sequences drew may stay. `sample`: the caller may read what the statement writes.
        """
        ...

    async def describe(self, schema: str, wanted: Wanted) -> tuple[list[dict[str, Any]], bool]:
        """Return the tables and views by name, and whether some were left out."""
        ...

    async def ping(self) -> None:
        """Must return when the database answers, and raise Unavailable if it does not."""
        ...


class SqlEngine(SqlDatabase, Protocol):
    """Runs tenants' statements, each tenant in a schema of its own.

    An engine must keep tenants apart even if a statement names another tenant's schema: no row, name or
    size of another tenant may be seen, changed or told from what does not exist.
    """

    @property
    def url(self) -> str:
        """The database, by the URL that a tenant's placement names it with."""
        ...

    async def fence(self, run: str, attempt: int) -> None:
        """Must refuse every later commit of an effect of this run under a lease older than `epoch`."""
        ...

    async def purge_effects(self, seconds: float) -> int:
        """Must forget effects and fences older than `seconds`, some thousands at a time, and count them."""
        ...

    async def erase(self, schema: str) -> None:
        """Must end every session of a tenant and leave nothing of it; may be repeated."""
        ...

    async def left(self, schema: str) -> dict[str, int]:
        """Must count what there is of a tenant, by kind: all 0 after `erase`."""
        ...


@dataclass(frozen=True, slots=True)
class OutsideDatabase:
    """A database of the operator's: read only unless `writable`; unqualified names mean `schema`."""

    database: SqlDatabase
    schema: str
    writable: bool
