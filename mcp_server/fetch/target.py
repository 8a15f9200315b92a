"""The one parser of outside URLs: what it returns is what is checked, resolved, connected to and asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

from mcp_server.errors import InvalidInput
from mcp_server.fetch.addresses import Address

MAX_URL_CHARACTERS = 4096

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# What a number as the last label would be to some resolvers: 127.1, 0x7f.1, 2130706433, 0177.0.0.1.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DOT = re.compile("%2e", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
# Ports that other protocols own: https://fetch.spec.whatwg.org/#port-blocking, from 1024 up.
_FOREIGN_PORTS = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6679, 6697, 10080}
) | frozenset(range(6665, 6670))


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads. `host` is a name in ASCII, or an address without brackets; `path` begins with /
    and holds the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def address(self) -> Address | None:
        """The host if it is given as an address."""
        if ":" in self.host:
            return IPv6Address(self.host)
        return IPv4Address(self.host) if self.host.rpartition(".")[2].isdigit() else None

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def has_usual_port(self) -> bool:
        """Whether the port is one at which the web is served: the scheme's own, or from 1024 up."""
        if self.port in _PORTS.values():
            return True
        return self.port >= 1024 and self.port not in _FOREIGN_PORTS

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse(url: str) -> Target:
    """Return where a URL leads; whatever two parsers could read differently is refused.

    Raises:
        InvalidInput: it is no plain http(s) URL; says what is wrong.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise _refused(f"it is longer than {MAX_URL_CHARACTERS} characters")
    if not url.isprintable() or " " in url or "\\" in url:
        raise _refused("it holds a space, a backslash or an invisible character; encode it")
    found = _URL.match(url)
    if found is None or found["scheme"].lower() not in _PORTS:
        raise _refused("give one that begins with http:// or https://")
    scheme = found["scheme"].lower()
    if "@" in found["authority"]:
        raise _refused("it holds a user name or password; leave that out")
    authority = _AUTHORITY.fullmatch(found["authority"])
    if authority is None or not authority["host"]:
        raise _refused("its host is malformed; give for example https://example.com/page")
    port = int(authority["port"]) if authority["port"] else _PORTS[scheme]
    if not 0 < port < 65536:
        raise _refused(f"{port} is no port")
    path = found["rest"] if found["rest"].startswith("/") else f"/{found['rest']}"
    return Target(scheme, _host(authority["host"]), port, _encoded(_undotted(path)))


def follow(base: Target, location: str) -> Target:
    """Return where a redirect leads.

    Raises:
        InvalidInput: it leads to no plain http(s) URL, or from https to http.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", location):
        target = parse(location)
    elif location.startswith("//"):
        target = parse(f"{base.scheme}:{location}")
    else:
        target = parse(f"{base.scheme}://{base.authority}{_against(base.path, location)}")
    if (base.scheme, target.scheme) == ("https", "http"):
        raise _refused("it redirects from https to http")
    return target


def _against(path: str, location: str) -> str:
    """Return the path that a reference without a host means, with the dots that it came with."""
    if location.startswith("/"):
        return location
    path = path.partition("?")[0]
    if location.startswith("?"):
        return path + location
    if not location.partition("#")[0]:
        return path
    return path.rpartition("/")[0] + "/" + location


def _undotted(path: str) -> str:
    """Return a path without `.` and `..`, as browsers ask for it: what is decided is what is meant."""
    plain, mark, query = path.partition("?")
    parts = plain.split("/")[1:]
    kept: list[str] = []
    for number, part in enumerate(parts):
        dots = _DOT.sub(".", part)
        if dots not in {".", ".."}:
            kept.append(part)
            continue
        del kept[-1 if dots == ".." else len(kept) :]
        if number == len(parts) - 1:
            kept.append("")
    return f"/{'/'.join(kept)}{mark}{query}"


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(_without_zone(text[1:-1]))
        except ValueError:
            raise _refused("its host is no IPv6 address without a zone") from None
    name = text.lower() if text.isascii() else _idna(text)
    name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused("its host is malformed; give for example https://example.com/page")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise _refused("its host is a number; give an address as four decimal ones") from None
    return name


def _without_zone(text: str) -> IPv6Address:
    if "%" in text:
        raise ValueError(text)
    return IPv6Address(text)


def _idna(text: str) -> str:
    """Return a name in ASCII as browsers map it (UTS 46): full-width digits and dots become plain ones."""
    import idna  # its tables take a while to load

    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise _refused("its host is no internationalised name") from None


def _encoded(path: str) -> str:
    """Return a path and query in ASCII; what is encoded stays as it is."""
    return quote(path, safe="/?%:@!$&'()*+,;=-._~[]")


def _refused(reason: str) -> InvalidInput:
    return InvalidInput(f"url: {reason}", param="url")
