"""Links on S3 stores that clients reach themselves: a GET goes to the store, and all else stays the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from mcp_server.auth.principal import OWNER
from tests.doors import raw
from tests.doors.live import Live, open_live
from tests.doors.test_links import BODY, link, put, stream
from tests.servers.juicefs import JuiceFs
from tests.servers.s3 import S3Server
from tests.servers.seaweedfs import SeaweedFs

SERVERS: dict[str, type[S3Server]] = {"juicefs": JuiceFs, "seaweedfs": SeaweedFs}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path, server: S3Server) -> AsyncIterator[Live]:
    async with open_live(
        scratch / f"links-{server.name}",
        llm_url=("scripted:",),
        objects_url=server.url("links"),
        objects_public_url=f"http://{server.endpoint}",
    ) as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


async def test_a_get_goes_to_the_store(
    live: Live, http: aiohttp.ClientSession, server: S3Server
) -> None:
    await put(live, "dir/großer name.html")
    url = await link(live, "dir/großer name.html")
    async with http.get(url, allow_redirects=False) as answer:
        assert answer.status == 307
        assert answer.headers["Cache-Control"] == "no-store"
        target = answer.headers["Location"]
    assert urlsplit(target).netloc == server.endpoint
    assert "html" not in urlsplit(target).path  # nothing of the key, nor of the tenant
    async with http.get(url) as answer:
        assert answer.status == 200
        assert await answer.read() == BODY
        assert answer.headers["Content-Type"].startswith("text/html")
        assert answer.headers["Content-Disposition"].startswith("attachment; filename*=UTF-8''gro")
    async with http.get(url, headers={"Range": "bytes=5-9"}) as answer:
        assert (answer.status, await answer.read()) == (206, BODY[5:10])
    async with http.get(target.replace("X-Amz-Expires=60", "X-Amz-Expires=600")) as answer:
        assert answer.status == 403


async def test_what_is_conditional_on_our_etag_is_answered_here(
    live: Live, http: aiohttp.ClientSession
) -> None:
    etag = f'"{(await put(live, "conditional"))["etag"]}"'
    url = await link(live, "conditional")
    for headers, status in (
        ({"If-None-Match": etag}, 304),
        ({"If-Match": etag}, 200),
        ({"If-Match": '"x"'}, 412),
        ({"If-Range": etag, "Range": "bytes=0-1"}, 206),
    ):
        async with http.get(url, headers=headers, allow_redirects=False) as answer:
            assert answer.status == status, headers
    async with http.head(url) as answer:
        assert answer.headers["Content-Length"] == str(len(BODY))


async def test_a_link_ends_here_too(live: Live, http: aiohttp.ClientSession) -> None:
    await put(live, "ends")
    url = await link(live, "ends")
    await live.runtime.services.links.revoke(OWNER, "b", "ends")
    async with http.get(url, allow_redirects=False) as answer:
        assert answer.status == 404


async def test_an_upload_comes_through_the_server(live: Live, http: aiohttp.ClientSession) -> None:
    url = await link(live, "up.bin", method="PUT", max_bytes=len(BODY))
    async with http.put(url, data=stream(BODY + b"x"), allow_redirects=False) as answer:
        assert answer.status == 413
    async with http.put(url, data=stream(BODY), allow_redirects=False) as answer:
        assert answer.status == 201
    async with http.put(url, data=stream(BODY), allow_redirects=False) as answer:
        assert answer.status == 404
    _, chunks = await live.runtime.services.objects.open(OWNER, "b", "up.bin")
    assert b"".join([chunk async for chunk in chunks]) == BODY
