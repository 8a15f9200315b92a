"""Every class of addresses that are not the public internet, and its neighbours that are."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from mcp_server.errors import ConfigurationError
from mcp_server.fetch import Allowed
from mcp_server.fetch.addresses import is_public
from mcp_server.fetch.target import parse

REFUSED = """
0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255 127.0.0.1
127.255.255.255 168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.0 172.31.255.255
192.0.0.1 192.0.0.170 192.0.0.192 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.0
192.168.255.255 192.175.48.1 198.18.0.0 198.19.255.255 198.51.100.1 203.0.113.255 224.0.0.1
239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::7f00:1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:93.184.216.34 ::ffff:0:127.0.0.1
64:ff9b::7f00:1 64:ff9b::5db8:d822 64:ff9b:1::a00:1 100::1 100:0:0:1::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2
2001:2::1 2001:10::1 2001:20::1 2001:1ff:ffff::1 2001:db8::1 2002:7f00:1:: 2002:5db8:d822::1 2620:4f:8000::1
3ffe::1 3fff::1 3fff:fff::1 4000::1 5f00::1 8000::1 fc00::1 fd00:ec2::254 fdff::1 fe80::1 fe80::1%eth0 febf::1
fec0::1 feff::1 ff00::1 ff02::1 ff0e::1 2606:4700::5efe:7f00:1 2606:4700::200:5efe:a00:1
"""

PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.167.255.255
192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
2001:200::1 2001:4860:4860::8888 2003::1 2400:cb00::1 2606:4700::1111 2620:0:861::1 2a00:1450:4001::1 2c0f:f248::1
"""


@pytest.mark.parametrize("address", REFUSED.split())
def test_a_special_address_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC.split())
def test_its_neighbours_are(address: str) -> None:
    assert is_public(ip_address(address))


def test_the_operator_admits_hosts_hosts_at_a_port_and_networks() -> None:
    allowed = Allowed.parse(
        ["Wiki.internal", "files.internal:8080", "10.1.0.0/16", "::1", "[fd00::1]:81"]
    )
    inside = ip_address("192.168.1.1")
    assert allowed.admits(parse("http://wiki.internal:22/"), inside)
    assert allowed.admits(parse("https://files.internal:8080/"), inside)
    assert not allowed.admits(parse("https://files.internal/"), inside)
    assert not allowed.admits(parse("http://sub.wiki.internal/"), inside)
    assert allowed.admits(parse("http://anything.example/"), ip_address("10.1.2.3"))
    assert not allowed.admits(parse("http://anything.example/"), ip_address("10.2.2.3"))
    assert allowed.admits(parse("http://[::1]/"), ip_address("::1"))
    assert not allowed.admits(parse("http://x.example/"), ip_address("::ffff:10.1.2.3"))
    assert allowed.admits(parse("http://[fd00::1]:81/"), ip_address("fd00::1"))
    assert not allowed.admits(parse("http://[fd00::1]/"), ip_address("fd00::1"))


def test_a_public_address_is_reached_at_ports_of_the_web() -> None:
    address = ip_address("1.1.1.1")
    for port in (80, 443, 8080, 8443, 3000):
        assert Allowed().admits(parse(f"http://example.com:{port}/"), address)
    for port in (1, 21, 22, 25, 110, 143, 465, 587, 993, 995, 2049, 6667):
        assert not Allowed().admits(parse(f"http://example.com:{port}/"), address)


@pytest.mark.parametrize(
    "entry",
    ["http://wiki", "wiki/path", "wiki/", "user@wiki", "10.0.0.1/8", "wiki:99999", "a b", "127.1"],
)
def test_a_malformed_entry_ends_the_start(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="ISTHMUS_FETCH_ALLOW"):
        Allowed.parse([entry])
