"""Who sends an HTTP request: the principal of a key, or of another process's pass."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any

from mcp_server.auth.keys import CACHE_SECONDS, MOST_CACHED, KeyService
from mcp_server.auth.passes import PASS_PREFIX, Pass, Passes
from mcp_server.auth.principal import OWNER, Principal
from mcp_server.errors import Unauthenticated

_PASS = "isthmus.pass"  # noqa: S105  a name, not a secret


class Callers:
    """Reads the one Authorization header of a request."""

    def __init__(self, keys: KeyService, *, auth: bool, passes: Passes | None = None) -> None:
        self._keys = keys
        self._auth = auth
        self._passes = passes
        self._alive: dict[str, float] = {}

    async def caller(self, scope: MutableMapping[str, Any], *, takes_passes: bool) -> Principal:
        """Return the principal of a request; what a pass adds to it is noted in the scope.

        Raises:
            Unauthenticated: there is no key or pass, or it opens nothing.
        """
        secret = self._secret(scope)
        if takes_passes and self._passes is not None and secret.startswith(PASS_PREFIX):
            shown = self._passes.open(secret)
            await self._require_alive(shown.principal)
            scope[_PASS] = shown
            return shown.principal
        if not self._auth:
            return OWNER
        if not secret:
            raise Unauthenticated("send one key, as the header Authorization: Bearer KEY")
        return await self._keys.authenticate(secret)

    def _secret(self, scope: MutableMapping[str, Any]) -> str:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return ""
        kind, _, secret = given[0].decode("latin-1").partition(" ")
        return secret.strip() if kind.lower() == "bearer" else ""

    async def _require_alive(self, principal: Principal) -> None:
        """A pass is as good as the key that it was made for.

        Raises:
            Unauthenticated: the key is dead.
        """
        key_id, now = principal.key_id, time.monotonic()
        if key_id is None or self._alive.get(key_id, 0.0) > now:
            return
        if await self._keys.dead({key_id}):
            self._alive.pop(key_id, None)
            raise Unauthenticated("the key behind this request was revoked or has expired")
        if len(self._alive) >= MOST_CACHED:
            self._alive.clear()
        self._alive[key_id] = now + CACHE_SECONDS


def shown_pass(scope: MutableMapping[str, Any]) -> Pass | None:
    """Return the pass that a request was admitted with, None if it was a key."""
    return scope.get(_PASS)
