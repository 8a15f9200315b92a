"""The caller of an operation: made at a door, carried by the request's context."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from mcp_server.errors import Unauthenticated

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Principal:
    """A tenant's subject with its scopes; `key_id` is None for the local owner."""

    tenant: str
    subject: str
    scopes: frozenset[str]
    key_id: str | None = None

    @property
    def account(self) -> str:
        """Whom limits count for: the key, else the subject."""
        return self.key_id or f"{self.tenant}/{self.subject}"


OWNER_SCOPES = frozenset({"read", "write", "run", "admin"})
OWNER = Principal(DEFAULT_TENANT, "owner", OWNER_SCOPES)

_current: ContextVar[Principal | None] = ContextVar("isthmus_principal", default=None)


def current_principal() -> Principal:
    """Return the caller of this request.

    Raises:
        Unauthenticated: no door has named one.
    """
    principal = _current.get()
    if principal is None:
        raise Unauthenticated(
            "this request carries no principal; send a key as Authorization: Bearer"
        )
    return principal


@contextmanager
def acting_as(principal: Principal) -> Generator[None]:
    """Make `principal` the caller of everything inside, tasks started there included."""
    token = _current.set(principal)
    try:
        yield
    finally:
        _current.reset(token)
