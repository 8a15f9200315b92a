"""Keys and values as callers see them, and what they may be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

from typing_extensions import TypedDict

from mcp_server.errors import Conflict, InvalidInput
from mcp_server.services import names
from mcp_server.storage.sql.schema import encode_json
from mcp_server.timestamps import iso_or_none

MAX_VALUE_BYTES = 1024 * 1024
MAX_TTL_SECONDS = 10 * 365 * 24 * 3600
MAX_LEASE_SECONDS = 24 * 3600
# What one answer may hold: a page ends early, many keys are asked for in parts.
MAX_PAGE_BYTES = 16 * 1024 * 1024
MAX_KEYS = 100


class KvItem(TypedDict):
    """One key with its value; `expires_at` is ISO 8601 in UTC."""

    key: str
    namespace: str
    value: Any
    version: int
    expires_at: str | None


class KvPage(TypedDict):
    items: list[KvItem]
    next_cursor: str | None


class KvDeleted(TypedDict):
    deleted: bool


class KvMany(TypedDict):
    """The keys that are there, in the order they were asked for, and those that are not."""

    items: list[KvItem]
    missing: list[str]


class KvLease(TypedDict):
    """A lease as its caller sees it: `token` is null unless it was acquired.

    `owner` and `expires_at` are those of whoever holds it now, null if nobody does.
    """

    key: str
    namespace: str
    token: int | None
    owner: str | None
    expires_at: str | None
    acquired: bool


@dataclass(frozen=True, slots=True)
class Held:
    """Who holds a lease until when, nobody if `expires_at` is None; `token` only for the holder itself."""

    token: int | None = None
    owner: str | None = None
    expires_at: datetime | None = None


def lease_of(at: Address, held: Held) -> KvLease:
    """Return a lease as its caller sees it."""
    return KvLease(
        key=at.key,
        namespace=at.namespace,
        token=held.token,
        owner=held.owner,
        expires_at=iso_or_none(held.expires_at),
        acquired=held.token is not None,
    )


class KvReleased(TypedDict):
    released: bool


class VersionConflict(Conflict):
    """The key has another version than was expected; `current` is 0 if it is not there."""

    def __init__(self, current: int | None) -> None:
        super().__init__(f"version is {current or 0}", param="expected_version")
        self.current = current or 0


def not_held(token: int) -> Conflict:
    return Conflict(f"the lease of token {token} is not held any more", param="fence")


def wrong_kind() -> Conflict:
    return Conflict("the value of this key is not a number", param="key")


@dataclass(frozen=True, slots=True)
class Terms:
    """Under what conditions a value is written, and for how long.

    `expected` is the version that must be current (0: none). `fence` is the token of a lease that must
    be held. `expires_at` wins over `ttl`, which is in seconds.
    """

    expected: int | None = None
    ttl: float | None = None
    expires_at: datetime | None = None
    fence: int | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """Where one key of one tenant is."""

    tenant: str
    namespace: str
    key: str

    @classmethod
    def of(cls, tenant: str, namespace: str, key: str) -> Address:
        """Return the address of names that a caller gave.

        Raises:
            InvalidInput: one of them is none.
        """
        return cls(tenant, names.container(namespace, "namespace"), names.key(key))

    @classmethod
    def of_uri(cls, tenant: str, uri: str) -> Address:
        """Return where the key of a journalled URI is.

        Raises:
            InvalidInput: it is the URI of no key.
        """
        namespace, slash, key = uri.removeprefix("kv://").partition("/")
        if not uri.startswith("kv://") or not slash:
            raise InvalidInput(f"{uri[:200]!r} is the URI of no key", param="uri")
        return cls.of(tenant, unquote(namespace), key)

    @property
    def uri(self) -> str:
        return f"{base(self.namespace)}{self.key}"

    def row(self) -> dict[str, str]:
        return {"tenant": self.tenant, "namespace": self.namespace, "key": self.key}


def base(namespace: str) -> str:
    """Return the URI that all keys of a namespace begin with.

    A namespace may hold slashes; encoded, `a/b` is never mistaken for a key of the namespace `a`.
    """
    return f"kv://{quote(names.container(namespace, 'namespace'), safe='')}/"


def encode(value: Any) -> str:
    """Return a value as it is stored.

    Raises:
        InvalidInput: it is not JSON, or too large.
    """
    encoded = encode_json(value)
    if len(encoded) > MAX_VALUE_BYTES:
        raise InvalidInput(
            f"value: {len(encoded)} bytes of JSON are more than the {MAX_VALUE_BYTES} allowed; "
            "store it as an object",
            param="value",
        )
    return encoded


def check_ttl(ttl_seconds: float | None, most: float = MAX_TTL_SECONDS) -> float | None:
    """Return a time to live.

    Raises:
        InvalidInput: it is out of range.
    """
    if ttl_seconds is not None and not 0 < ttl_seconds <= most:
        raise InvalidInput(
            f"ttl_seconds: {ttl_seconds} is not above 0 and at most {most}", param="ttl_seconds"
        )
    return ttl_seconds


def check_expected(expected: int | None) -> int | None:
    """Return the version that must be current, 0 for none and None for any.

    Raises:
        InvalidInput: it is negative.
    """
    if expected is not None and expected < 0:
        raise InvalidInput(
            f"expected_version: {expected} is negative; 0 means that the key must not exist",
            param="expected_version",
        )
    return expected


def check_token(token: int | None, param: str) -> int | None:
    """Return a lease's token.

    Raises:
        InvalidInput: there is no such token.
    """
    if token is not None and not 0 < token < 2**63:
        raise InvalidInput(f"{param}: {token} is no token that kv_lease gave out", param=param)
    return token


def check_owner(owner: str | None) -> str | None:
    """Return the name that a lease is shown with.

    Raises:
        InvalidInput: it is too long, or not plain text.
    """
    return None if owner is None else names.key(owner, "owner")
