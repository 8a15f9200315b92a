"""Passes: what one process of a deployment shows to another instead of the client's key."""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from dataclasses import dataclass
from typing import Any, cast

import orjson

from mcp_server.auth.principal import Principal
from mcp_server.errors import Unauthenticated
from mcp_server.secret import derive

PASS_PREFIX = "isth-pass."  # noqa: S105  a name, not a secret
LIFE_SECONDS = 30.0
"""A pass is made for one request, which is sent at once: the time covers clocks that differ a little."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Who a request is made for, and what its caller adds to it.

    `key` makes a repeated call harmless; `seconds` is what is left of its deadline; `by_model` tells
    that a model chose the call.
    """

    principal: Principal
    key: str | None = None
    seconds: float | None = None
    by_model: bool = False


class Passes:
    """Makes and opens passes; every process with the same secret takes them."""

    def __init__(self, secret: bytes) -> None:
        self._secret = derive(secret, "passes")

    def make(self, given: Pass) -> str:
        """Return the pass as the value of a bearer token."""
        who = given.principal
        claims = [
            *(who.tenant, who.subject, sorted(who.scopes), who.key_id),
            *(given.key, given.seconds, given.by_model, time.time() + LIFE_SECONDS),
        ]
        payload = orjson.dumps(claims)
        seal = hmac.digest(self._secret, payload, "sha256")
        return PASS_PREFIX + base64.urlsafe_b64encode(seal + payload).decode().rstrip("=")

    def open(self, token: str) -> Pass:
        """Return what a pass says.

        Raises:
            Unauthenticated: it was not made with this secret, or its time is over.
        """
        try:
            raw = base64.urlsafe_b64decode(token.removeprefix(PASS_PREFIX) + "==")
        except (binascii.Error, ValueError) as error:
            raise _REFUSED from error
        seal, payload = raw[:32], raw[32:]
        if not hmac.compare_digest(seal, hmac.digest(self._secret, payload, "sha256")):
            raise _REFUSED
        claims = cast("list[Any]", orjson.loads(payload))
        tenant, subject, scopes, key_id, key, seconds, by_model, until = claims
        if time.time() > until:
            raise _REFUSED
        return Pass(Principal(tenant, subject, frozenset(scopes), key_id), key, seconds, by_model)


_REFUSED = Unauthenticated(
    "the pass of another process of this deployment is not good: give all of them the same "
    "ISTHMUS_PASS_KEY (without one, the same ISTHMUS_SECRET_KEY), and keep their clocks within half a minute"
)
