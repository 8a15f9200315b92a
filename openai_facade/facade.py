"""What the routes of the OpenAI face are given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcp_server.agents.events import LoopLimits
from mcp_server.auth.principal import Principal, current_principal
from mcp_server.doors import NOBODY
from mcp_server.policy import Verb

if TYPE_CHECKING:
    from mcp_server.bus import Bus
    from mcp_server.ingest.embed import Embedder
    from mcp_server.llm.router import Router
    from mcp_server.operation import Operation, Operations
    from mcp_server.sealing import Sealer
    from mcp_server.services import ControlServices, Services
    from openai_facade.exchange import Exchange

AGENT_PREFIX = "agent/"
"""A model id that begins so is an agent."""

PING_SECONDS = 15.0

DefaultServers = Callable[[Principal, str], tuple[str, ...]]
"""Principal and model id -> labels of the MCP servers that a chat gets without asking."""


def no_default_servers(principal: Principal, model: str) -> tuple[str, ...]:
    """Give no chat any tool that it did not ask for."""
    del principal, model
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facade:
    """Opened once per process; `created` (Unix seconds) dates what has no date of its own.

    `sealer` seals what clients keep for the server. `data_services` are there unless the process has no data engines.
    """

    router: Router
    bus: Bus
    services: ControlServices
    operations: Operations
    embedder: Embedder
    sealer: Sealer
    data_services: Services | None = None
    default_mcp_servers: DefaultServers = no_default_servers
    limits: LoopLimits = field(default_factory=LoopLimits)
    ping_seconds: float = PING_SECONDS
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def data(self) -> Services:
        """The services of data engines, for routes whose module has `NEEDS_DATA`."""
        if self.data_services is None:
            raise RuntimeError("a route that needs data is served where there is none")
        return self.data_services

    def operation(
        self, exchange: Exchange, verb: Verb, uri: str
    ) -> AbstractAsyncContextManager[Operation]:
        """Open the operation that a request is; it counts against the caller's rate."""
        exchange.counted = True
        return self.operations(current_principal(), verb, uri, metered=True)

    def asking(self, exchange: Exchange, uri: str) -> AbstractAsyncContextManager[Operation]:
        """Open the operation that asks the model or the agent `uri` for an answer.

        It changes nothing by itself: what is kept of the answer is an operation of its own.
        """
        exchange.counted = True
        return self.operations(current_principal(), "run", uri, metered=True, changes=False)

    async def count(self, exchange: Exchange) -> None:
        """Count a request that was refused before it came to an operation.

        Raises:
            LimitExceeded: the caller's rate is used up.
        """
        principal = current_principal()
        if not exchange.counted and principal is not NOBODY:
            exchange.counted = True
            await self.operations.meter(principal)


def servers_for_models(models: Iterable[str], label: str) -> DefaultServers:
    """Give `label` to every chat with one of `models`; `*` means all of them."""
    chosen = frozenset(models)

    def labels(principal: Principal, model: str) -> tuple[str, ...]:
        del principal
        return (label,) if model in chosen or "*" in chosen else ()

    return labels if chosen else no_default_servers
