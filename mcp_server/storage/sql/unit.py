"""A tenant's part of a unit of work: several statements in one transaction, with the mark that decides the whole."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from mcp_server.storage.sql import Checked, Page, SqlResult


class UnitUnsure(Exception):
    """The connection broke at the commit: only the mark tells whether it was done."""


class UnitTransaction(Protocol):
    """An open transaction of a tenant; what is not committed is rolled back."""

    async def run(self, statement: Checked, params: Sequence[Any], page: Page) -> SqlResult:
        """Run one checked statement; raises as `SqlEngine.run`, and then nothing of the unit is left."""
        ...

    async def ready(self) -> None:
        """Must check what a commit would still check, so that only a lost connection can fail it."""
        ...

    async def commit(self) -> None:
        """Must mark the unit as kept and commit, both or none.

        Must raise Conflict if the unit was dropped meanwhile, Unavailable if it certainly did not commit,
        and UnitUnsure if nobody knows.
        """
        ...


class UnitEngine(Protocol):
    """What an SQL engine offers to units of work."""

    def unit(self, schema: str, unit: str) -> AbstractAsyncContextManager[UnitTransaction]:
        """Open the transaction of the unit with that id, under the tenant's writing role."""
        ...

    async def settle(self, unit: str) -> bool:
        """Return whether a unit was kept; if it was not, it must never be from now on.

        Must wait for a transaction of the unit that is under way, and raise Unavailable if that takes
        longer than such a transaction may.
        """
        ...
