"""What counts as this machine: names, addresses, and requests that nobody passed on."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.types import Scope

LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain"})

# What proxies add to tell whom they speak for; also every X-Forwarded-….
_FORWARDED = frozenset({b"forwarded", b"via", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip"})


def host_name(host: str) -> str:
    """Return the host of `host[:port]`, in lower case; an empty name if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return ""
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return ""
    return (parts.hostname or "").rstrip(".")


def is_address(name: str) -> bool:
    """Tell whether a host is given as an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Tell whether a name or an address is this machine's own."""
    if not is_address(name):
        return name in LOOPBACK_NAMES
    address = ipaddress.ip_address(name)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_local(scope: Scope) -> bool:
    """Tell whether a request without a key comes from this machine itself.

    What a proxy on this machine passes on does not: it names its client in a header, or keeps the
    host name that the client asked for.
    """
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"authorization" or name in _FORWARDED or name.startswith(b"x-forwarded"):
            return False
        if name == b"host" and not is_loopback(host_name(value.decode("latin-1"))):
            return False
    client: tuple[str, int] | None = scope.get("client")
    return client is not None and is_loopback(client[0])
