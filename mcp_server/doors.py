"""Every HTTP route declares its verb; the gate makes a principal of each request, and ends it when the key dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from mcp_server.auth.callers import Callers
from mcp_server.auth.keys import CACHE_SECONDS, KeyService
from mcp_server.auth.passes import Passes
from mcp_server.auth.principal import OWNER, Principal, acting_as
from mcp_server.auth.sdk_user import sdk_user
from mcp_server.door_errors import (
    Door,
    MethodNotAllowed,
    Renderer,
    render_mcp,
    render_plain,
)
from mcp_server.errors import (
    AppError,
    ConfigurationError,
    InvalidInput,
    Unauthenticated,
    Unavailable,
)
from mcp_server.live_request import Answer, LiveRequest
from mcp_server.loopback import is_local
from mcp_server.operation import DISCONNECTED
from mcp_server.policy import Verb
from mcp_server.request_body import BodyRoom, declared_length
from mcp_server.tracing.places import sent_place, standing_in

logger = logging.getLogger(__name__)

_DEAD = Unauthenticated("the key was revoked or has expired while the request ran")
_STOPPING = Unavailable("the server is stopping; try again")

_DOOR = "isthmus.door"
LIVE = "isthmus.live"

# Who sends a request without a key to a route that needs none.
NOBODY = Principal("", "nobody", frozenset())


class DeclaredRoute(Route):
    """A route that says what it is: `verb` for policy, `door` for the form of its errors.

    `public` routes take no key, though some know the caller by one (`recognises`); `local` routes take
    none from this machine; at others a `ticket` in the path says who calls. One that takes `passes` serves
    other processes of the deployment too, for callers of theirs. `streams` marks answers without
    an end of their own, which a shutdown closes first; such requests have no body. `uploads` marks bodies
    that are stored as they come: an object's size bounds them, and they take no room in memory.
    """

    def __init__(
        self,
        path: str,
        endpoint: Any,
        *,
        methods: Sequence[str],
        verb: Verb,
        door: Door,
        public: bool = False,
        recognises: bool = False,
        local: bool = False,
        streams: bool = False,
        uploads: bool = False,
        ticket: Callable[[Scope], Awaitable[Principal]] | None = None,
        passes: bool = False,
        egress: bool = False,
        labels: tuple[str, ...] = (),
    ) -> None:
        super().__init__(path, endpoint, methods=list(methods))
        self.verb: Verb = verb
        self.door: Door = door
        self.public = public
        self.recognises = recognises
        self.local = local
        self.streams = streams
        self.uploads = uploads
        self.ticket = ticket
        self.passes = passes
        self.egress = egress
        self.labels = labels
        self.gate: Gate | None = None
        if streams and self.methods:  # Starlette adds it to GET: a stream that shows nothing
            self.methods.discard("HEAD")

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the request, then serve it as its principal."""
        gate = self.gate
        if gate is None:
            raise RuntimeError("a route is served before Gate.bind took charge of it")
        answer = Answer(send)
        scope[_DOOR] = self.door
        try:
            principal = await self._principal(scope, gate)
            self._check_method(scope["method"], gate)
            _check_address(scope)
            if self.streams and declared_length(scope):
                raise InvalidInput("this request opens a stream and takes no body; leave it out")
            bodies = gate.bodies.streaming if self.uploads else gate.bodies.receiving
            with (
                bodies(principal.account, scope, receive) as counted,
                acting_as(principal),
                standing_in(sent_place(scope["headers"])),
                gate.track(principal, streams=self.streams) as live,
            ):
                scope[LIVE] = live
                await super().handle(scope, live.receiving(counted), answer.send)
            if live.cut_by is not None:
                raise live.cut_by
        except AppError as error:
            if answer.started:
                await answer.end()
            else:
                await gate.render(self.door, error, scope)(scope, receive, send)

    async def _principal(self, scope: Scope, gate: Gate) -> Principal:
        if self.local and gate.trusts_loopback and is_local(scope):
            return OWNER
        if self.ticket is not None:
            return await self.ticket(scope)
        if not self.public:
            principal = await gate.admit(scope, takes_passes=self.passes)
            if self.door == "mcp":
                scope["user"] = sdk_user(principal)
            return principal
        return await gate.recognise(scope) if self.recognises else OWNER

    def _check_method(self, method: str, gate: Gate) -> None:
        if self.methods and method not in self.methods:
            allow = gate.methods_at(self.path)
            raise MethodNotAllowed(f"{method} is not served at {self.path}: {allow}", allow=allow)


def door_of(scope: Scope) -> str:
    """Return the door of the route that serves a request, `none` if no route does."""
    return scope.get(_DOOR, "none")


def cut_by(scope: Scope) -> AppError | None:
    """Return why a request was ended from outside, None if it was not."""
    live: LiveRequest | None = scope.get(LIVE)
    return None if live is None else live.cut_by


def _check_address(scope: Scope) -> None:
    """Refuse what no database could look up: nothing here has a name with a NUL in it."""
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise InvalidInput("the address holds a NUL (%00), which no name here does; leave it out")


class Gate:
    """Admits requests by their key, and cuts those whose key dies while they run."""

    def __init__(
        self,
        keys: KeyService,
        *,
        auth: bool,
        max_body_bytes: int,
        max_object_bytes: int | None = None,
        trusts_loopback: bool = True,
        passes: Passes | None = None,
    ) -> None:
        self._keys = keys
        self._callers = Callers(keys, auth=auth, passes=passes)
        self.bodies = BodyRoom(max_body_bytes, max_object_bytes)
        self.trusts_loopback = trusts_loopback
        self._live: dict[str, set[LiveRequest]] = {}
        self._all: set[LiveRequest] = set()
        self.routes: list[DeclaredRoute] = []
        self.renderers: dict[Door, Renderer] = {"mcp": render_mcp, "plain": render_plain}

    def bind(self, routes: Sequence[BaseRoute]) -> None:
        """Take charge of the routes.

        Raises:
            ConfigurationError: a route declares no verb.
        """
        for route in routes:
            if not isinstance(route, DeclaredRoute):
                raise ConfigurationError(
                    f"route {route!r} declares no verb; make it a DeclaredRoute"
                )
            route.gate = self
            self.routes.append(route)

    def methods_at(self, path: str) -> str:
        """Return the methods that are served at a route's path, as the Allow header has them."""
        here = (route.methods or set[str]() for route in self.routes if route.path == path)
        return ", ".join(sorted(set[str]().union(*here)))

    async def admit(self, scope: Scope, *, takes_passes: bool = False) -> Principal:
        """Return the principal of a request.

        Raises:
            Unauthenticated: there is no key, or it opens nothing.
            Unavailable: the control database does not answer.
        """
        try:
            return await self._callers.caller(scope, takes_passes=takes_passes)
        except (SQLAlchemyError, *DISCONNECTED) as error:
            logger.warning("keys: the control database does not answer (%s)", error)
            raise Unavailable("no key can be checked at the moment; try again") from error

    async def recognise(self, scope: Scope) -> Principal:
        """Return who sends a request that takes no key, `NOBODY` unless a good one says so."""
        try:
            return await self.admit(scope)
        except (Unauthenticated, Unavailable):
            return NOBODY

    @contextmanager
    def track(self, principal: Principal, *, streams: bool) -> Generator[LiveRequest]:
        """Let the body be cut when the key dies or the server stops."""
        live = LiveRequest(streams)
        with live.scope:
            group = self._live.setdefault(principal.key_id, set()) if principal.key_id else None
            if group is not None:
                group.add(live)
            self._all.add(live)
            try:
                yield live
            finally:
                self._all.discard(live)
                if group is not None and principal.key_id is not None:
                    group.discard(live)
                    if not group:
                        self._live.pop(principal.key_id, None)

    def close_streams(self) -> None:
        """End the answers that have no end of their own: the server is stopping."""
        for live in list(self._all):
            if live.streams:
                live.cut(_STOPPING)

    def close_all(self) -> None:
        """End everything that still runs: it had its time."""
        for live in list(self._all):
            live.cut(_STOPPING)

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Cut requests of dead keys while the context is open."""
        watcher = asyncio.create_task(self._watch_forever(), name="key-watch")
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _watch_forever(self) -> None:
        while True:
            await asyncio.sleep(CACHE_SECONDS)
            if not self._live:
                continue
            try:
                dead = await self._keys.dead(set(self._live))
            except DISCONNECTED as error:
                logger.warning("keys: the control database does not answer (%s)", error)
                continue
            except Exception:  # whatever it was, the watch must go on
                logger.exception("keys: it is not known which of them died")
                continue
            for key_id in dead:
                for live in list(self._live.get(key_id, ())):
                    live.cut(_DEAD)

    def render(self, door: Door, error: AppError, scope: Scope) -> Response:
        """Return the error in the door's form."""
        return self.renderers[door](error, scope)

    def render_for_path(self, error: AppError, scope: Scope) -> Response:
        """Return the error in the form of the door at this path: for what fails before any route runs."""
        for route in self.routes:
            if route.matches(scope)[0] is not Match.NONE:
                return self.render(route.door, error, scope)
        return self.render("plain", error, scope)
