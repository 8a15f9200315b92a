"""Where an object is: its bucket and key, checked, and the URI that names both."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Table, and_

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.services import names
from mcp_server.storage.sql.schema import objects

SCHEME = "object://"

# Characters that show nothing: a name with one looks like another name. Joiners shape letters and stay.
_INVISIBLE = frozenset("\u00ad\u034f\u180e\u200b\u2060\u2061\u2062\u2063\u2064\ufeff")


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where an object is; names are checked before one is made."""

    tenant: str
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"

    def row(self, table: Table = objects) -> ColumnElement[bool]:
        return and_(
            table.c.tenant == self.tenant,
            table.c.bucket == self.bucket,
            table.c.key == self.key,
        )

    def columns(self) -> dict[str, str]:
        return {"tenant": self.tenant, "bucket": self.bucket, "key": self.key}


def address(principal: Principal, bucket: str, key: str) -> Address:
    """Return the address of names that a caller gave.

    Raises:
        InvalidInput: one is no name.
    """
    return Address(principal.tenant, check_bucket(bucket), check_key(key))


def names_of(uri: str) -> tuple[str, str]:
    """Return the bucket and the key that a URI of ours names.

    Raises:
        InvalidInput: it is none.
    """
    bucket, slash, key = uri.removeprefix(SCHEME).partition("/")
    if not uri.startswith(SCHEME) or not slash:
        raise InvalidInput(f"{uri[:80]!r} is not object://BUCKET/KEY")
    return bucket, key


def check_bucket(name: str) -> str:
    """Return the bucket's name.

    Raises:
        InvalidInput: it is none.
    """
    if (
        "/" in name
    ):  # `object://a/b/c` would name two objects, and a scope on one bucket open another
        raise InvalidInput(f"bucket: {name[:80]!r} holds a /; leave it out", param="bucket")
    return names.container(name, "bucket")


def check_key(key: str) -> str:
    """Return the key in Unicode's composed form, so that what looks alike is alike.

    Raises:
        InvalidInput: it is no key, or could be mistaken for a path that leads elsewhere.
    """
    key = names.key(unicodedata.normalize("NFC", names.key(key)))
    if "\\" in key or any(part in {"", ".", ".."} for part in key.split("/")):
        raise InvalidInput(
            f"key: {key[:80]!r} holds a backslash or an empty, . or .. part between slashes; "
            "use names joined by single slashes, for example reports/2026/may.txt",
            param="key",
        )
    for char in key:
        if char in _INVISIBLE:
            raise InvalidInput(
                f"key: the character U+{ord(char):04X} cannot be seen, so the key looks like another; "
                "leave it out",
                param="key",
            )
    return key
