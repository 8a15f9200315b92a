"""Turns a host into addresses, once, and says which of them a connection may go to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

from mcp_server.errors import InvalidInput, Unavailable
from mcp_server.fetch.addresses import Address
from mcp_server.fetch.allowed import Allowed
from mcp_server.fetch.target import Target

# Given a name in ASCII, return its addresses, the preferred first; OSError if there are none.
Resolve = Callable[[str], Awaitable[Sequence[Address]]]


async def system_resolve(name: str) -> Sequence[Address]:
    """Ask the system's resolver: DNS, the hosts file, and whatever else is configured."""
    found = await asyncio.get_running_loop().getaddrinfo(
        name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [ip_address(where[0]) for *_, where in found]


async def addresses(target: Target, allowed: Allowed, resolve: Resolve) -> Sequence[Address]:
    """Return the addresses that a connection to a target may go to; every one was looked at.

    A name that has one address that may not be reached is refused, whatever else it has: it is either
    an inside name or an attempt to reach one.

    Raises:
        InvalidInput: there is no such host, or it may not be reached. Unavailable: nobody could tell.
    """
    given = target.address
    try:
        found = [given] if given is not None else await resolve(target.host)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise Unavailable(
                f"url: the name {target.host} cannot be looked up now", param="url"
            ) from error
        raise _unknown(target) from error
    if not found:
        raise _unknown(target)
    if not all(_may_reach(target, address, allowed) for address in found):
        raise InvalidInput(
            f"url: {target.authority} is not on the public internet, or not at a port of the web; only an "
            "operator can admit it (ISTHMUS_FETCH_ALLOW)",
            param="url",
        )
    return list(dict.fromkeys(found))


def _may_reach(target: Target, address: Address, allowed: Allowed) -> bool:
    if not allowed.admits(target, address):
        return False
    return allowed.names(target) or allowed.covers(address) or not _is_own(address)


def _is_own(address: Address) -> bool:
    """Tell whether a public address is this machine's: what listens there may trust whoever is inside.

    The system says from where it would send to it; nothing is sent.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ip_address(probe.getsockname()[0]) == address
    except OSError:  # no way there
        return False


def _unknown(target: Target) -> InvalidInput:
    return InvalidInput(f"url: there is no host {target.host}", param="url")
