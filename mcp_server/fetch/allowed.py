"""FETCH_ALLOW: the hosts and networks that URLs may reach though they are not public."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mcp_server.errors import ConfigurationError, InvalidInput
from mcp_server.fetch import target as targets
from mcp_server.fetch.addresses import Address, Network, is_public, parse_network
from mcp_server.fetch.target import Target


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be reached beside the public internet: hosts at any port or at one, and networks."""

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Allowed:
        """Read the setting's entries: `HOST`, `HOST:PORT`, an address or a network.

        Raises:
            ConfigurationError: one of them is none of these.
        """
        hosts: set[tuple[str, int | None]] = set()
        networks: list[Network] = []
        for entry in entries:
            network = parse_network(entry)
            if network is not None:
                networks.append(network)
                continue
            try:
                host = targets.parse(f"http://{entry}")
            except InvalidInput as error:
                raise _malformed(entry) from error
            if host.path != "/" or entry.endswith("/"):
                raise _malformed(entry)
            named = entry.rpartition("]")[2].rpartition(":")
            hosts.add((host.host, host.port if named[1] else None))
        return cls(frozenset(hosts), tuple(networks))

    def names(self, target: Target) -> bool:
        """Tell whether a target is admitted by its host, wherever that is."""
        return bool({(target.host, target.port), (target.host, None)} & self.hosts)

    def covers(self, address: Address) -> bool:
        """Tell whether an address lies in an admitted network."""
        return any(
            address.version == network.version and address in network for network in self.networks
        )

    def admits(self, target: Target, address: Address) -> bool:
        """Tell whether a connection may go to an address of a target's host."""
        if self.names(target) or self.covers(address):
            return True
        return is_public(address) and target.has_usual_port


def _malformed(entry: str) -> ConfigurationError:
    return ConfigurationError(
        f"ISTHMUS_FETCH_ALLOW: {entry!r} is neither a host, HOST:PORT nor a network; give for example "
        "wiki.internal, wiki.internal:8080 or 10.1.0.0/16"
    )
