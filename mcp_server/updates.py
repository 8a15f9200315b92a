"""Live updates: follows the journal while somebody listens and tells each of them what it may know."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio.lowlevel
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import ResourceUpdated, ServerEvent
from mcp_types import SubscriptionsListenRequestParams, SubscriptionsListenResult
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal, policy
from mcp_server.auth.principal import Principal, current_principal
from mcp_server.errors import LimitExceeded, Unavailable
from mcp_server.operation import DISCONNECTED
from mcp_server.server import IsthmusServer

logger = logging.getLogger(__name__)

Listener = Callable[[ServerEvent], None]
POLL_SECONDS = 0.2
RETRY_SECONDS = 1.0
READY_SECONDS = 5.0
BATCH = 1000
# What one session or stream may watch.
MOST_URIS = 1024


class Updates:
    """The SDK's subscription bus over the journal.

    A listener is bound to the principal that subscribed: the same URI means another thing in another
    tenant, and each event is decided again by policy.
    """

    def __init__(self) -> None:
        self._listeners: dict[object, tuple[Principal, Listener]] = {}
        self._preparing = 0
        self._wanted = asyncio.Event()
        self._following = asyncio.Event()
        self._position: tuple[int, int] | None = None

    async def publish(self, event: ServerEvent) -> None:
        """Tell every listener of a change in the server itself, such as its list of tools."""
        for _, listener in list(self._listeners.values()):
            _tell(listener, event)
        await anyio.lowlevel.checkpoint()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener of the current principal; returns the way out."""
        token = object()
        self._listeners[token] = (current_principal(), listener)
        self._wanted.set()
        return lambda: self._listeners.pop(token, None) and None

    async def prepare(self) -> None:
        """Return when no change from now on will be missed, if the caller subscribes at once.

        Without it a client could be told that it is subscribed, change something through another door,
        and never hear of it.

        Raises:
            Unavailable: the journal cannot be read.
        """
        self._preparing += 1
        self._wanted.set()
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._following.wait()
        except TimeoutError as error:
            raise Unavailable("the journal does not answer; subscribe again later") from error
        finally:
            self._preparing -= 1

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
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:  # whatever it was, the next change must be delivered
                logger.exception("updates: the journal could not be followed")
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, control: AsyncEngine) -> None:
        """Deliver what is new from now on, or since a failure, until nobody listens any more."""
        if self._position is None:
            self._position = await journal.end(control)
        self._following.set()
        while self._listeners or self._preparing:
            changes, self._position = await journal.read_everything(control, self._position, BATCH)
            for tenant, uri in changes:
                self._deliver(tenant, uri)
            if len(changes) < BATCH:
                await asyncio.sleep(POLL_SECONDS)
        self._position = None
        self._following.clear()
        self._wanted.clear()

    def _deliver(self, tenant: str, uri: str) -> None:
        event = ResourceUpdated(uri=uri)
        for principal, listener in list(self._listeners.values()):
            if principal.tenant == tenant and policy.allows(principal, "read", uri):
                _tell(listener, event)


def _tell(listener: Listener, event: ServerEvent) -> None:
    try:
        listener(event)
    except Exception:  # one listener must not silence the others
        logger.exception("updates: a listener failed")


def check_count(count: int) -> None:
    """Refuse a listener that wants to watch too much.

    Raises:
        LimitExceeded: more than 1,024 URIs.
    """
    if count > MOST_URIS:
        raise LimitExceeded(f"one listener may watch {MOST_URIS} resources; end some first")


def serve_listening(server: IsthmusServer, updates: Updates) -> None:
    """Serve subscriptions/listen, which acknowledges only what it will really deliver."""

    async def listen(
        ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        uris = params.notifications.resource_subscriptions or []
        check_count(len(uris))
        if uris:
            await updates.prepare()
        return await server.listeners(ctx, params)

    lowlevel = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the SDK has no public door for it
    lowlevel.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, listen)
