"""Fetching from real servers on loopback: where the guard lets a connection go, and what it takes from it."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
import zlib
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from mcp_server.errors import AppError, InvalidInput, LimitExceeded, Timeout, Unavailable
from mcp_server.fetch import Allowed, Fetcher
from mcp_server.fetch.resolve import _is_own
from tests.contract.fetch.site import Answer, Names, certificate, once, says, serving

MIB = 1024 * 1024


def fetcher(*allowed: str, names: Names | None = None) -> Fetcher:
    return Fetcher(Allowed.parse(allowed), names or Names())


async def body(fetcher: Fetcher, url: str, max_bytes: int = MIB, seconds: float = 10) -> bytes:
    async with fetcher.open(url, max_bytes=max_bytes, seconds=seconds) as fetched:
        return await fetched.read()


async def test_a_page_comes_with_its_type_and_its_last_address() -> None:
    page = once(b"hello", "Content-Type: text/html; charset=utf-8")

    async def answer(path: str) -> AsyncIterator[bytes]:
        yield once(b"", "Location: b?c", status="302 Found") if path == "/a" else page

    async with serving(answer) as site:
        names = Names(wiki_internal=["127.0.0.1"])
        there = fetcher("wiki.internal", names=names)
        url = f"http://wiki.internal:{site.port}"
        async with there.open(f"{url}/a", max_bytes=100) as fetched:
            assert fetched.content_type == "text/html; charset=utf-8"
            assert fetched.url == f"{url}/b?c"
            assert await fetched.read() == b"hello"
        host = f"wiki.internal:{site.port}"
        assert site.asked == [("/a", host), ("/b?c", host)]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "inside.example",
        "mixed.example",
    ],
)
async def test_what_is_inside_is_not_even_connected_to(host: str) -> None:
    names = Names(
        localhost=["127.0.0.1"],
        inside_example=["10.0.0.1"],
        mixed_example=["93.184.216.34 127.0.0.1"],
    )
    async with serving(says(once(b"secret"))) as site:
        with pytest.raises(
            InvalidInput, match=r"^invalid_input: url: .* is not on the public internet"
        ):
            await body(fetcher(names=names), f"http://{host}:{site.port}/")
        assert site.asked == []


async def test_the_answer_of_a_refusal_does_not_tell_the_address() -> None:
    with pytest.raises(InvalidInput) as told:
        await body(fetcher(names=Names(a_example=["10.20.30.40"])), "http://a.example/")
    assert "10.20" not in str(told.value)


async def test_a_name_is_looked_up_once_and_the_connection_goes_to_what_was_checked() -> None:
    """DNS rebinding: the name means another address as soon as it was looked at."""
    async with serving(says(once(b"outside")), host="127.0.0.2") as outside:
        async with serving(says(once(b"inside")), port=outside.port) as inside:
            names = Names(evil_example=["127.0.0.2", "127.0.0.1"])
            there = fetcher("127.0.0.2/32", names=names)
            assert await body(there, f"http://evil.example:{inside.port}/") == b"outside"
            assert names.asked == ["evil.example"]
            with pytest.raises(InvalidInput, match="not on the public internet"):
                await body(there, f"http://evil.example:{inside.port}/")
            assert inside.asked == []
            assert outside.asked == [("/", f"evil.example:{inside.port}")]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "//169.254.169.254/",
        "http://metadata.internal/",
        "http://[fd00:ec2::254]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://①⑥⑨.254.169.254/".encode().decode("latin-1"),
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_INFO",
        "http://user@127.0.0.2/",
    ],
)
async def test_a_redirect_is_checked_like_the_first_address(location: str) -> None:
    answer = says(
        once(b"", f"Location: {location}".encode("latin-1").decode("latin-1"), status="302 Found")
    )
    async with serving(answer, host="127.0.0.2") as site:
        names = Names(metadata_internal=["169.254.169.254"])
        with pytest.raises(AppError) as told:
            await body(fetcher("127.0.0.2", names=names), f"http://127.0.0.2:{site.port}/")
        assert told.value.code == "invalid_input"
        assert len(site.asked) == 1


async def test_redirects_come_to_an_end() -> None:
    async with serving(
        says(once(b"", "Location: /again", status="308 Permanent Redirect"))
    ) as site:
        with pytest.raises(InvalidInput, match="redirects more than 5 times"):
            await body(fetcher("127.0.0.1"), f"http://127.0.0.1:{site.port}/")
        assert len(site.asked) == 6


async def test_the_certificate_must_be_the_hosts_though_the_connection_goes_to_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, context = certificate(tmp_path, "good.example")
    names = Names(good_example=["127.0.0.1"], bad_example=["127.0.0.1"])
    there = fetcher("127.0.0.1", names=names)
    async with serving(says(once(b"secure")), tls=context) as site:
        with pytest.raises(InvalidInput, match="certificate"):  # nobody vouches for it
            await body(there, f"https://good.example:{site.port}/")
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert await body(there, f"https://good.example:{site.port}/") == b"secure"
        for host in ("bad.example", "127.0.0.1"):
            with pytest.raises(InvalidInput, match="certificate"):
                await body(there, f"https://{host}:{site.port}/")
        assert len(site.asked) == 1


async def test_a_redirect_does_not_leave_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, context = certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with serving(says(once(b"plain"))) as plain:
        to = once(b"", f"Location: http://127.0.0.1:{plain.port}/", status="301 Moved")
        async with serving(says(to), tls=context) as site:
            with pytest.raises(InvalidInput, match="from https to http"):
                await body(fetcher("127.0.0.1"), f"https://127.0.0.1:{site.port}/")
        assert plain.asked == []


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(says(once(b"proxy"))) as proxy, serving(says(once(b"direct"))) as site:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await body(fetcher("127.0.0.1"), f"http://127.0.0.1:{site.port}/") == b"direct"
        assert proxy.asked == []


async def test_an_address_that_nobody_is_at_gives_way_to_the_next() -> None:
    async with serving(says(once(b"second"))) as site:
        names = Names(two_example=["127.0.0.3 127.0.0.1"])
        there = fetcher("127.0.0.0/8", names=names)
        assert await body(there, f"http://two.example:{site.port}/") == b"second"


async def endless(_: str) -> AsyncIterator[bytes]:
    yield once(b"", length=False)
    while True:
        yield b"x" * 65536


async def trickle(_: str) -> AsyncIterator[bytes]:
    yield once(b"", "Content-Length: 1000", length=False)
    while True:
        yield b"x"
        await asyncio.sleep(0.05)


async def slow_head(_: str) -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(100_000):
        yield f"X-{number}: y\r\n".encode()
        await asyncio.sleep(0.05)


async def continuing(_: str) -> AsyncIterator[bytes]:
    while True:
        yield b"HTTP/1.1 103 Early Hints\r\n\r\n"
        await asyncio.sleep(0.01)


async def test_an_endless_body_ends_at_the_bound() -> None:
    async with serving(endless) as site:
        with pytest.raises(LimitExceeded, match="larger than 1048576 bytes"):
            await body(fetcher("127.0.0.1"), f"http://127.0.0.1:{site.port}/")


async def test_a_declared_length_over_the_bound_is_not_begun() -> None:
    async with serving(says(once(b"", "Content-Length: 99999999", length=False))) as site:
        with pytest.raises(LimitExceeded):
            async with fetcher("127.0.0.1").open(f"http://127.0.0.1:{site.port}/", max_bytes=MIB):
                raise AssertionError("opened")


@pytest.mark.parametrize("answer", [trickle, slow_head, continuing])
async def test_a_slow_answer_ends_with_its_time(answer: Answer) -> None:
    begun = time.monotonic()
    async with serving(answer) as site:
        with pytest.raises(Timeout, match=r"took over 0.5 s"):
            await body(fetcher("127.0.0.1"), f"http://127.0.0.1:{site.port}/", seconds=0.5)
    assert time.monotonic() - begun < 30


async def noted(pieces: AsyncIterator[bytes], sizes: list[int]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        sizes.append(len(piece))
        yield piece


async def test_a_compressed_bomb_ends_at_the_bound_of_what_it_becomes() -> None:
    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join([bomb.compress(bytes(MIB)) for _ in range(200)]) + bomb.flush()
    assert len(packed) < MIB
    async with serving(says(once(packed, "Content-Encoding: gzip"))) as site:
        url = f"http://127.0.0.1:{site.port}/"
        seen: list[int] = []
        async with fetcher("127.0.0.1").open(url, max_bytes=MIB) as fetched:
            with pytest.raises(LimitExceeded):
                b"".join([piece async for piece in noted(fetched.chunks(), seen)])
        assert max(seen) <= 65536
        assert sum(seen) <= MIB


async def test_gzip_is_decoded_whole_and_nothing_else_is() -> None:
    plain = b"isthmus " * 100_000
    packed = gzip.compress(plain[:70]) + gzip.compress(plain[70:])
    async with serving(says(once(packed, "Content-Encoding: gzip"))) as site:
        assert await body(fetcher("127.0.0.1"), f"http://127.0.0.1:{site.port}/") == plain
    for wrong, error in (
        (once(packed[:-9], "Content-Encoding: gzip"), Unavailable),
        (once(b"no gzip", "Content-Encoding: gzip"), Unavailable),
        (once(packed, "Content-Encoding: br"), InvalidInput),
        (once(packed, "Content-Encoding: gzip, gzip"), InvalidInput),
    ):
        async with serving(says(wrong)) as site:
            with pytest.raises(error):
                await body(fetcher("127.0.0.1"), f"http://127.0.0.1:{site.port}/")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (once(b"", status="404 Not Found"), InvalidInput),
        (once(b"", status="401 Unauthorized"), InvalidInput),
        (once(b"", status="204 No Content"), InvalidInput),
        (once(b"part", status="206 Partial Content"), InvalidInput),
        (once(b"", status="302 Found"), InvalidInput),
        (once(b"", status="503 Service Unavailable"), Unavailable),
        (once(b"", status="429 Too Many Requests"), Unavailable),
        (b"not http\r\n\r\n", Unavailable),
        (b"", Unavailable),
        (once(b"", "Content-Length: 100", length=False) + b"short", Unavailable),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n", Unavailable),
    ],
)
async def test_what_is_no_page_is_an_error(answer: bytes, error: type[AppError]) -> None:
    async with serving(says(answer)) as site:
        with pytest.raises(error, match=f"127.0.0.1:{site.port} ") as told:
            await body(fetcher("127.0.0.1"), f"http://127.0.0.1:{site.port}/")
        assert told.value.param == "url"


async def test_nobody_there_and_no_such_name() -> None:
    async with serving(says(b"")) as site:
        pass
    with pytest.raises(Unavailable, match="does not answer"):
        await body(fetcher("127.0.0.1"), f"http://127.0.0.1:{site.port}/")

    async def nowhere(_: str) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "no")

    async def unsure(_: str) -> list[object]:
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    for resolve, error in ((nowhere, InvalidInput), (unsure, Unavailable)):
        with pytest.raises(error, match=r"no\.example"):
            await body(Fetcher(resolve=resolve), "http://no.example/")  # pyright: ignore[reportArgumentType]


async def test_the_systems_resolver_knows_this_machine() -> None:
    with pytest.raises(InvalidInput, match="not on the public internet"):
        await body(Fetcher(), "http://localhost/")
    async with serving(says(once(b"here"))) as site:
        allowed = Allowed.parse(["localhost"])
        assert await body(Fetcher(allowed), f"http://localhost:{site.port}/") == b"here"


async def test_a_caller_that_leaves_closes_the_connection() -> None:
    closed = asyncio.Event()

    async def watched(_: str) -> AsyncIterator[bytes]:
        try:
            async for part in endless(_):
                yield part
        finally:
            closed.set()

    async with serving(watched) as site:
        url = f"http://127.0.0.1:{site.port}/"
        async with fetcher("127.0.0.1").open(url, max_bytes=1024 * MIB) as fetched:
            async for _piece in fetched.chunks():
                break
        async with asyncio.timeout(5):
            await closed.wait()


def test_a_public_address_of_this_machine_itself_is_told_apart() -> None:
    assert _is_own(ip_address("127.0.0.1"))
    assert not _is_own(ip_address("93.184.216.34"))
