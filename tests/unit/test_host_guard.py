"""Foreign Host and Origin headers never reach a route."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from mcp_server.transports.host_guard import HostGuard


def client(hosts: tuple[str, ...] = (), origins: tuple[str, ...] = ()) -> TestClient:
    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.headers.get("x-padded", ""))

    return TestClient(HostGuard(Starlette(routes=[Route("/", echo)]), hosts, origins))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8321",
        "127.0.0.1:8321",
        "[::1]:8321",
        "192.0.2.7",
        "api.example.com:443",
    ],
)
def test_addresses_loopback_names_and_allowed_names_are_served(host: str) -> None:
    assert client(("api.example.com",)).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com", "localhost.evil.com", "127.0.0.1.evil.com", "localhost:80@evil.com", "a@localhost",
        "localhost/x?#", "localhost:port", "", "evil.com:8321", "xn--localhost-",
    ],
)  # fmt: skip
def test_any_other_host_is_refused(host: str) -> None:
    assert client(("api.example.com",)).get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200), ("http://127.0.0.1", 200), ("http://[::1]:5", 200), ("https://app.example.com", 200),
        ("http://testserver.local", 403), ("http://evil.com", 403), ("null", 403), ("https://app.example.com.evil.com", 403),
        ("http://localhost@evil.com", 403), ("http://localhost.evil.com", 403), ("file://localhost", 403),
    ],
)  # fmt: skip
def test_an_origin_must_be_of_this_machine_or_allowed(origin: str, status: int) -> None:
    answer = client(origins=("https://app.example.com/",)).get(
        "/", headers={"host": "127.0.0.1:8321", "origin": origin}
    )
    assert answer.status_code == status


def test_the_page_of_this_very_server_may_call_it() -> None:
    headers = {"host": "192.0.2.7:8321", "origin": "http://192.0.2.7:8321"}
    assert client().get("/", headers=headers).status_code == 200


def test_no_host_of_a_strangers_making_is_kept_at_length() -> None:
    async def nothing(*_: object) -> None: ...

    guard = HostGuard(nothing, (), ())
    long = b"[fe80::1%" + b"a" * 60_000 + b"]"
    for host in (long, b"127.0.0.1:" + b"0" * 4000 + b"80", b"[fe80::1%a]"):
        assert guard._refusal([(b"host", host)]) is None
    assert guard._known == {b"[fe80::1%a]"}
    for number in range(3000):
        assert guard._refusal([(b"host", b"[fe80::1%%%d]" % number)]) is None
    assert len(guard._known) <= 1000


def test_blanks_around_header_values_are_cut() -> None:
    answer = client().get("/", headers={"host": "localhost", "x-padded": "\t value \t"})
    assert answer.text == "value"
