"""Live updates: follows the journal while somebody listens and tells each of them what it may know."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio.lowlevel
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import (
    PromptsListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp_types import SubscriptionsListenRequestParams, SubscriptionsListenResult
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal, policy
from mcp_server.auth.principal import Principal, current_principal
from mcp_server.errors import LimitExceeded, Unavailable
from mcp_server.function_names import agent_face
from mcp_server.limits import Share
from mcp_server.operation import DISCONNECTED
from mcp_server.policy import Verb
from mcp_server.runs.following import Following
from mcp_server.runs.outage import through_outage
from mcp_server.server import IsthmusServer
from mcp_server.services.agent_rows import PROMPTS_CHANGED, TOOLS_CHANGED
from mcp_server.storage.sql.run_tables import runs
from mcp_server.storage.sql.wake import Wake

logger = logging.getLogger(__name__)

Listener = Callable[[ServerEvent], None]
# A wake-up says when to look, but not when what it told of can be seen: an older transaction may still
# be open. So the journal is read a few times after one, and now and then without one.
POLL_SECONDS = 1.0
AFTER_WAKE_SECONDS = 0.2
LEAST_SECONDS = 0.02
RETRY_SECONDS = 1.0
READY_SECONDS = 5.0
BATCH = 1000
# What one session or stream may watch.
MOST_URIS = 1024
# Each run that is watched takes a task, also one that does not exist: so many for all streams of a key.
MOST_RUNS_PER_KEY = 8192
# However fast a run tells events, its watchers hear that there are new ones this often.
FRAME_SECONDS = 0.1

# By the label of a journal's entry of an agent: what changed, and who sees it.
_LISTS: dict[str, tuple[ServerEvent, Verb, str]] = {
    TOOLS_CHANGED: (ToolsListChanged(), "run", "tool"),
    PROMPTS_CHANGED: (PromptsListChanged(), "read", "prompt"),
}
_RUN_URI = re.compile(r"run://(run_[0-9a-f]{32})")


@dataclass(slots=True)
class _Watched:
    """A run whose events somebody wants to hear of."""

    listeners: int
    task: asyncio.Task[None]


class Updates:
    """The SDK's subscription bus over the journal.

    A listener is bound to the principal that subscribed: the same URI means another thing in another
    tenant, and each event is decided again by policy.
    """

    def __init__(self) -> None:
        self._listeners: dict[object, tuple[Principal, Listener]] = {}
        # Apart, so that the many who hear of lists only cost nothing at each change of data.
        self._list_listeners: dict[object, tuple[Principal, Listener]] = {}
        self._preparing = 0
        self._wanted = asyncio.Event()
        self._following = asyncio.Event()
        self._position: tuple[int, int] | None = None
        self._watched: dict[str, _Watched] = {}
        self._share = Share(MOST_RUNS_PER_KEY, f"watch {MOST_RUNS_PER_KEY} runs")
        self._sources: tuple[AsyncEngine, Following] | None = None

    async def publish(self, event: ServerEvent) -> None:
        """Tell every listener of a change in the server itself, such as its list of tools."""
        for _, listener in [*self._listeners.values(), *self._list_listeners.values()]:
            _tell(listener, event)
        await anyio.lowlevel.checkpoint()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener of the current principal; returns the way out."""
        return self._subscribe(self._listeners, listener)

    def subscribe_lists(self, listener: Listener) -> Callable[[], None]:
        """Add a listener of the current principal that hears of changed lists only; returns the way out."""
        return self._subscribe(self._list_listeners, listener)

    def _subscribe(
        self, listeners: dict[object, tuple[Principal, Listener]], listener: Listener
    ) -> Callable[[], None]:
        token = object()
        listeners[token] = (current_principal(), listener)
        self._wanted.set()
        return lambda: listeners.pop(token, None) and None

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

    def watch(self, uri: str) -> Callable[[], None]:
        """Tell listeners of new events, too, if `uri` is a run's; returns the way out.

        The journal has only the changes of its status.

        Raises:
            LimitExceeded: the current principal watches too many.
        """
        run = _RUN_URI.fullmatch(uri)
        if run is None or self._sources is None:
            return lambda: None
        give_back = self._share.take(current_principal())
        watched = self._watched.get(uri)
        if watched is None:
            telling = self._tell_frames(uri, run[1], *self._sources)
            watched = self._watched[uri] = _Watched(0, asyncio.create_task(telling, name=uri))
        watched.listeners += 1
        return lambda: self._unwatch(uri, watched, give_back)

    def _unwatch(self, uri: str, watched: _Watched, give_back: Callable[[], None]) -> None:
        give_back()
        watched.listeners -= 1
        if watched.listeners == 0:
            watched.task.cancel()
            del self._watched[uri]

    @asynccontextmanager
    async def following(
        self, control: AsyncEngine, wake: Wake, runs: Following
    ) -> AsyncGenerator[None]:
        """Deliver journalled changes, and the frames of watched runs, while the context is open."""
        self._sources = (control, runs)
        follower = asyncio.create_task(self._follow_forever(control, wake), name="updates")
        try:
            yield
        finally:
            self._sources = None
            tasks = [follower, *(watched.task for watched in self._watched.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow_forever(self, control: AsyncEngine, wake: Wake) -> None:
        while True:
            await self._wanted.wait()
            try:
                with wake.listening("journal") as news:
                    await self._follow(control, news)
            except DISCONNECTED as error:
                logger.warning("updates: the control database does not answer (%s)", error)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:  # whatever it was, the next change must be delivered
                logger.exception("updates: the journal could not be followed")
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, control: AsyncEngine, news: asyncio.Event) -> None:
        """Deliver what is new from now on, or since a failure, until nobody listens any more."""
        if self._position is None:
            self._position = await journal.end(control)
        self._following.set()
        clock = asyncio.get_running_loop().time
        woken = clock()
        while self._listeners or self._list_listeners or self._preparing:
            if news.is_set():
                woken = clock()
                news.clear()
            changes, self._position = await journal.read_everything(control, self._position, BATCH)
            for entry in changes:
                self._deliver(entry.tenant, policy.journalled(entry.uri, entry.labels))
                self._deliver_lists(entry.tenant, entry.uri, entry.labels)
            if len(changes) < BATCH:
                recent = clock() - woken < POLL_SECONDS
                await _pause(news, AFTER_WAKE_SECONDS if recent else POLL_SECONDS)
        self._position = None
        self._following.clear()
        self._wanted.clear()

    def _deliver(self, tenant: str, uri: str) -> None:
        event = ResourceUpdated(uri=str(uri))
        for principal, listener in list(self._listeners.values()):
            if principal.tenant == tenant and policy.allows(principal, "read", uri):
                _tell(listener, event)

    def _deliver_lists(self, tenant: str, uri: str, labels: Sequence[str]) -> None:
        """Tell of a changed list whoever would see the agent in it."""
        for label, (event, verb, kind) in _LISTS.items():
            if label not in labels:
                continue
            face = agent_face(uri.removeprefix("agent://"))
            everyone = [*self._listeners.values(), *self._list_listeners.values()]
            for principal, listener in everyone:
                sees = policy.allows(principal, verb, uri)
                sees = sees and policy.allows(principal, verb, f"{kind}://{face}")
                if principal.tenant == tenant and sees:
                    _tell(listener, event)

    async def _tell_frames(
        self, uri: str, run: str, control: AsyncEngine, following: Following
    ) -> None:
        tenant: str | None = None
        with following.moved(run) as news:
            while True:
                await news.wait()
                news.clear()
                tenant = tenant or await through_outage(lambda: _tenant_of(control, run))
                if tenant is not None:
                    self._deliver(tenant, uri)
                await asyncio.sleep(FRAME_SECONDS)


async def _tenant_of(control: AsyncEngine, run: str) -> str | None:
    async with control.connect() as connection:
        return await connection.scalar(select(runs.c.tenant).where(runs.c.id == run))


async def _pause(news: asyncio.Event, seconds: float) -> None:
    """Wait for news, so long at most; wake-ups that follow each other closely count as one."""
    await asyncio.sleep(LEAST_SECONDS)
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        return


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
        wanted = params.notifications
        uris = wanted.resource_subscriptions or []
        check_count(len(uris))
        if uris or wanted.tools_list_changed or wanted.prompts_list_changed:
            await updates.prepare()
        with ExitStack() as watching:
            for uri in set(uris):
                watching.callback(updates.watch(uri))
            return await server.listeners(ctx, params)

    lowlevel = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the SDK has no public door for it
    lowlevel.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, listen)
