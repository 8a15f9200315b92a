"""Keys and values as callers see them, and what they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from typing_extensions import TypedDict

from mcp_server.errors import InvalidInput
from mcp_server.services import names
from mcp_server.storage.sql.schema import encode_json

MAX_VALUE_BYTES = 1024 * 1024
MAX_TTL_SECONDS = 10 * 365 * 24 * 3600


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
