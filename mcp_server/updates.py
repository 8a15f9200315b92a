"""Live updates: follows the journal while somebody listens and tells each of them what it may know."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio.lowlevel
from mcp.server.subscriptions import ResourceUpdated, ServerEvent
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal, policy
from mcp_server.auth.principal import Principal, current_principal
from mcp_server.operation import DISCONNECTED

logger = logging.getLogger(__name__)

Listener = Callable[[ServerEvent], None]
POLL_SECONDS = 0.2
BATCH = 1000


class Updates:
    """The SDK's subscription bus over the journal.

    A listener is bound to the principal that subscribed: the same URI means another thing in another
    tenant, and each event is decided again by policy.
    """

    def __init__(self) -> None:
        self._listeners: dict[object, tuple[Principal, Listener]] = {}
        self._wanted = asyncio.Event()

    async def publish(self, event: ServerEvent) -> None:
        """Tell every listener of a change in the server itself, such as its list of tools."""
        for _, listener in list(self._listeners.values()):
            listener(event)
        await anyio.lowlevel.checkpoint()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener of the current principal; returns the way out."""
        token = object()
        self._listeners[token] = (current_principal(), listener)
        self._wanted.set()
        return lambda: self._listeners.pop(token, None) and None

    @asynccontextmanager
    async def following(self, control: AsyncEngine) -> AsyncGenerator[None]:
        """Deliver journalled changes while the context is open."""
        follower = asyncio.create_task(self._follow_forever(control), name="updates")
        try:
            yield
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)

    async def _follow_forever(self, control: AsyncEngine) -> None:
        while True:
            await self._wanted.wait()
            try:
                await self._follow(control)
            except DISCONNECTED as error:
                logger.warning("updates: the control database does not answer (%s)", error)
                await asyncio.sleep(1)

    async def _follow(self, control: AsyncEngine) -> None:
        """Deliver what is new from now on, until nobody listens any more."""
        position = await journal.end(control)
        while self._listeners:
            changes, position = await journal.read_everything(control, position, BATCH)
            for tenant, uri in changes:
                self._deliver(tenant, uri)
            if len(changes) < BATCH:
                await asyncio.sleep(POLL_SECONDS)
        self._wanted.clear()

    def _deliver(self, tenant: str, uri: str) -> None:
        event = ResourceUpdated(uri=uri)
        for principal, listener in list(self._listeners.values()):
            if principal.tenant == tenant and policy.allows(principal, "read", uri):
                listener(event)
