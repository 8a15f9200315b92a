"""Links by which clients reach the bucket themselves: for one blob or slot, one method, some seconds, nothing else."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import anyio
import pytest
import urllib3

from mcp_server.errors import NotFound
from mcp_server.storage.objects import Presigning, open_blobs
from mcp_server.storage.objects.s3.links import LinkingS3Store
from tests.contract.blobs.conftest import opening
from tests.servers.juicefs import JuiceFs
from tests.servers.s3 import SECRET_KEY, S3Server

BODY = b"the quick brown fox"
HEADERS = {"content_type": "text/plain", "disposition": 'attachment; filename="fox.txt"'}


@pytest.fixture(params=["juicefs", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> S3Server:
    return request.getfixturevalue(request.param)


@pytest.fixture
async def store(server: S3Server, tmp_path: Path) -> AsyncIterator[LinkingS3Store]:
    where = opening(server.url("links"), tmp_path, f"http://{server.endpoint}")
    async with open_blobs(where) as store:
        assert isinstance(store, LinkingS3Store)
        yield store


async def body() -> AsyncGenerator[bytes]:
    yield BODY


async def request(
    method: str, url: str, body: bytes | None = None
) -> tuple[int, bytes, urllib3.BaseHTTPResponse]:
    def send() -> urllib3.BaseHTTPResponse:
        with urllib3.PoolManager(retries=False) as pool:
            return pool.request(method, url, timeout=20.0, body=body)

    answer = await anyio.to_thread.run_sync(send)
    return answer.status, answer.data, answer


async def test_only_a_store_that_clients_reach_gives_links(
    juicefs: JuiceFs, tmp_path: Path
) -> None:
    for url, public in ((None, None), (juicefs.url("links"), None), (None, "http://127.0.0.1:1")):
        async with open_blobs(opening(url, tmp_path, public)) as store:
            assert not isinstance(store, Presigning)


async def test_a_blob_is_read_by_its_link_with_the_headers_that_it_names(
    store: LinkingS3Store,
) -> None:
    assert isinstance(store, Presigning)
    blob = await store.put(body())
    status, data, answer = await request("GET", store.link_to_get(blob.key, seconds=60, **HEADERS))
    assert (status, data) == (200, BODY)
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["content-disposition"] == HEADERS["disposition"]


async def test_a_link_shows_no_secret_and_cannot_be_changed(store: LinkingS3Store) -> None:
    blob, other = await store.put(body()), await store.put(body())
    url = store.link_to_get(blob.key, seconds=60, **HEADERS)
    assert SECRET_KEY not in url
    parts = urlsplit(url)
    changed = [
        url.replace(blob.key, other.key),
        url.replace("text%2Fplain", "text%2Fhtml"),
        url.replace("attachment", "inline"),
        url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        urlunsplit(parts._replace(query="")),
    ]
    for link in changed:
        assert link != url
        status, data, _ = await request("GET", link)
        assert status in {400, 403}, link
        assert BODY not in data
    for method in ("PUT", "DELETE"):
        status, _, _ = await request(method, url)
        assert status == 403
    assert b"".join([chunk async for chunk in store.get(blob.key, 0, len(BODY))]) == BODY


async def test_a_link_ends(store: LinkingS3Store) -> None:
    blob = await store.put(body())
    url = store.link_to_get(blob.key, seconds=1, **HEADERS)
    deadline = time.monotonic() + 20
    while (await request("GET", url))[0] == 200:
        assert time.monotonic() < deadline
        await anyio.sleep(0.2)
    assert (await request("GET", url))[0] == 403


async def test_what_comes_by_a_link_waits_in_its_slot_until_it_is_read(
    store: LinkingS3Store,
) -> None:
    slot, url = store.link_to_put(seconds=60)
    with pytest.raises(NotFound):
        await anext(store.received(slot))
    status, _, _ = await request("PUT", url, body=BODY)
    assert status == 200
    assert [blob async for blob in store.list()] == []
    blob = await store.put(store.received(slot))
    await store.drop(slot)
    assert blob.sha256 == hashlib.sha256(BODY).hexdigest()
    with pytest.raises(NotFound):
        await anext(store.received(slot))
    # Whoever has the link can still write: to the slot, never to the blob.
    assert (await request("PUT", url, body=b"other"))[0] == 200
    assert b"".join([chunk async for chunk in store.get(blob.key, 0, len(BODY))]) == BODY


async def test_what_was_never_read_is_discarded(store: LinkingS3Store) -> None:
    slot, url = store.link_to_put(seconds=60)
    await request("PUT", url, body=BODY)
    now = datetime.now(UTC)
    assert await store.discard_unfinished(now - timedelta(days=1)) == 0
    assert await store.discard_unfinished(now + timedelta(days=1)) == 1
    with pytest.raises(NotFound):
        await anext(store.received(slot))


async def test_no_name_leads_out_of_the_slots(store: LinkingS3Store) -> None:
    blob = await store.put(body())
    for name in (f"../{blob.key}", "", "a/b", blob.key.upper()):
        await store.drop(name)
        with pytest.raises(NotFound):
            await anext(store.received(name))
    assert [listed.key async for listed in store.list()] == [blob.key]


async def test_a_link_is_signed_for_the_host_that_clients_reach(
    juicefs: JuiceFs, tmp_path: Path
) -> None:
    where = opening(juicefs.url("links"), tmp_path, "https://objects.example.com")
    async with open_blobs(where) as store:
        assert isinstance(store, Presigning)
        url = store.link_to_get("a" * 32, seconds=60, **HEADERS)
    assert url.startswith(f"https://objects.example.com/links/{where.namespace}/{'a' * 32}?")
    assert juicefs.endpoint not in url
