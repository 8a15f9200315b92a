"""What a run may do: what it was granted at its start, as far as its subject may still do it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from sqlalchemy.exc import SQLAlchemyError

from mcp_server.agents.events import Toolbox, ToolOutcome
from mcp_server.agents.previews import Previewing
from mcp_server.agents.questions import ASK_PERSON, QUESTION
from mcp_server.auth.principal import Principal
from mcp_server.errors import Unauthenticated, Unavailable

ScopesNow: TypeAlias = Callable[[Principal], Awaitable[frozenset[str] | None]]
"""Return what a principal's key may do now, None if the key is dead."""

ToolboxFor: TypeAlias = Callable[[Principal, Sequence[str]], Toolbox]
"""Make the toolbox of the named tools for a principal."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The rights that a run was started with."""

    principal: Principal
    scopes_now: ScopesNow

    async def now(self) -> Principal:
        """Return the principal with grant ∩ current rights.

        Raises:
            Unauthenticated: its key is revoked or expired. Unavailable: that cannot be known now.
        """
        try:
            scopes = await self.scopes_now(self.principal)
        except (SQLAlchemyError, OSError) as error:
            raise Unavailable("the run's rights cannot be checked now; try again") from error
        if scopes is None:
            raise Unauthenticated("the key that started this run is revoked or expired")
        return replace(self.principal, scopes=intersect(self.principal.scopes, scopes))


@dataclass(frozen=True, slots=True)
class GrantedToolbox:
    """A toolbox whose every use is decided by the rights of that moment."""

    grant: Grant
    tools: tuple[str, ...]
    toolbox_for: ToolboxFor

    async def specs(self) -> list[dict[str, Any]]:
        specs = await self.toolbox_for(await self.grant.now(), self.tools).specs()
        return [*specs, QUESTION] if ASK_PERSON in self.tools else specs

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        toolbox = self.toolbox_for(await self.grant.now(), self.tools)
        return await toolbox.call(name, arguments, key=key)

    async def preview(self, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        toolbox = self.toolbox_for(await self.grant.now(), self.tools)
        if not isinstance(toolbox, Previewing):
            return None
        return await toolbox.preview(name, arguments)

    def repeatable(self, name: str) -> bool:
        return self.toolbox_for(self.grant.principal, self.tools).repeatable(name)


def intersect(first: frozenset[str], second: frozenset[str]) -> frozenset[str]:
    """Return the scopes that both sets allow: of two that overlap, the narrower one."""
    return frozenset(
        [item for item in first if _within(item, second)]
        + [item for item in second if _within(item, first)]
    )


def _within(scope: str, wider: frozenset[str]) -> bool:
    verb = scope.partition(":")[0]
    return any(
        scope == other or other == verb or (other.endswith("*") and scope.startswith(other[:-1]))
        for other in wider
    )
