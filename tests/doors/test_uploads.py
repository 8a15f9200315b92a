"""Resumable uploads under /uploads/, as a real client of the protocol and raw requests see them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from sqlalchemy import func, select, update
from tusclient.client import TusClient

from mcp_server.auth.principal import OWNER
from mcp_server.services.objects import uploads as uploads_module
from mcp_server.services.objects.collector import collect_garbage, sweep_orphans
from mcp_server.services.objects.upload_rows import purge
from mcp_server.storage.sql.object_tables import object_upload_parts, object_uploads
from tests.contract.objects.streams import stored
from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live

MOST, PART = 3_000_000, 100_000
TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = {**TUS, "Content-Type": "application/offset+octet-stream"}
BODY = hashlib.shake_256(b"isthmus").digest(1_000_000)


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads_module, "PART_BYTES", PART)
        async with open_live(
            scratch / "uploads",
            llm_url=("scripted:",),
            max_body_bytes=50_000,
            max_object_bytes=MOST,
            undo_days=0,
        ) as live:
            yield live


@pytest.fixture
async def http(live: Live) -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        http.headers.update(live.headers)
        yield http


def metadata(**given: str) -> str:
    pairs = {"bucket": "up", **given}
    return ",".join(
        f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in pairs.items()
    )


async def create(
    live: Live, http: aiohttp.ClientSession, key: str, length: int, **given: str
) -> str:
    headers = {**TUS, "Upload-Length": str(length), "Upload-Metadata": metadata(key=key, **given)}
    async with http.post(f"{live.url}/uploads/", headers=headers) as answer:
        assert answer.status == 201, await answer.text()
        assert answer.headers["Tus-Resumable"] == "1.0.0"
        return live.url + answer.headers["Location"]


async def patch(
    http: aiohttp.ClientSession, url: str, offset: int, body: Any, **headers: str
) -> tuple[int, Any]:
    given = {**CHUNK, "Upload-Offset": str(offset), **headers}
    async with http.patch(url, data=body, headers=given) as answer:
        return answer.status, answer.headers


async def offset_of(http: aiohttp.ClientSession, url: str) -> int:
    async with http.head(url, headers=TUS) as answer:
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-store"
        return int(answer.headers["Upload-Offset"])


async def content(live: Live, key: str) -> bytes:
    _, chunks = await live.runtime.services.objects.open(OWNER, "up", key)
    return b"".join([chunk async for chunk in chunks])


async def exists(live: Live, key: str) -> bool:
    page = await live.runtime.services.objects.list(OWNER, "up", prefix=key)
    return bool(page["items"])


async def collected(live: Live) -> set[str]:
    """Return the blobs that are left after a collection."""
    from datetime import timedelta

    engines = live.runtime.engines
    await sweep_orphans(engines.control, engines.blobs, timedelta(0))
    await collect_garbage(engines.control, engines.blobs, timedelta(0))
    return await stored(engines.blobs)


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 1_000_000])
@pytest.mark.parametrize("checksum", [False, True])
async def test_a_real_client_uploads(live: Live, size: int, *, checksum: bool) -> None:
    key = f"tuspy/{size}-{checksum}.txt"

    def upload() -> str | None:
        client = TusClient(f"{live.url}/uploads/", headers=live.headers)
        uploader = client.uploader(
            file_stream=io.BytesIO(BODY[:size]),
            chunk_size=300_000,
            metadata={"bucket": "up", "filename": key, "tags": '{"via": "tus"}'},
            upload_checksum=checksum,
        )
        uploader.upload()
        return uploader.url

    await anyio.to_thread.run_sync(upload)
    assert await content(live, key) == BODY[:size]
    stat = await live.runtime.services.objects.stat(OWNER, "up", key)
    assert stat["sha256"] == hashlib.sha256(BODY[:size]).hexdigest()
    assert (stat["content_type"], stat["tags"]) == ("text/plain", {"via": "tus"})


async def test_nothing_is_left_beside_the_objects(live: Live, http: aiohttp.ClientSession) -> None:
    url = await create(live, http, "clean.bin", 250_000)
    assert (await patch(http, url, 0, io.BytesIO(BODY[:250_000])))[0] == 204
    names = {
        item["key"]
        for item in (await live.runtime.services.objects.list(OWNER, "up", limit=1000))["items"]
        if "key" in item
    }
    open_parts = select(func.count()).select_from(object_upload_parts)
    async with live.runtime.engines.control.connect() as tx:
        left = await tx.scalar(open_parts)
    assert left == 0
    assert len(await collected(live)) == len(names)


async def test_an_object_appears_whole_with_its_last_byte(
    live: Live, http: aiohttp.ClientSession
) -> None:
    url = await create(live, http, "whole.bin", len(BODY))
    half = len(BODY) // 2
    status, headers = await patch(http, url, 0, io.BytesIO(BODY[:half]))
    assert (status, headers["Upload-Offset"]) == (204, str(half))
    assert "Upload-Expires" in headers
    assert not await exists(live, "whole.bin")
    assert await offset_of(http, url) == half
    status, headers = await patch(http, url, half, io.BytesIO(BODY[half:]))
    assert (status, headers["Upload-Offset"]) == (204, str(len(BODY)))
    info = await live.runtime.services.objects.stat(OWNER, "up", "whole.bin")
    assert headers["ETag"] == f'"{info["etag"]}"'
    assert headers["Isthmus-Object"] == info["id"]
    assert await content(live, "whole.bin") == BODY
    assert await offset_of(http, url) == len(BODY)
    assert (await patch(http, url, len(BODY), b""))[0] == 204
    assert (await patch(http, url, len(BODY), b"x"))[0] == 400
    assert live.http.gate.bodies.held == 0


async def test_what_came_before_a_client_left_is_kept(
    live: Live, http: aiohttp.ClientSession
) -> None:
    url = await create(live, http, "left.bin", len(BODY))
    host, _, port = live.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = {
        **CHUNK,
        **live.headers,
        "Host": host,
        "Upload-Offset": "0",
        "Content-Length": str(len(BODY)),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    writer.write(f"PATCH {url.removeprefix(live.url)} HTTP/1.1\r\n{lines}\r\n".encode())
    writer.write(BODY[:345_678])
    await writer.drain()
    writer.transport.close()
    async with asyncio.timeout(20):
        while await offset_of(http, url) < 345_678:
            await asyncio.sleep(0.02)
    offset = await offset_of(http, url)
    assert (await patch(http, url, offset, io.BytesIO(BODY[offset:])))[0] == 204
    assert await content(live, "left.bin") == BODY


async def test_a_wrong_offset_is_a_conflict(live: Live, http: aiohttp.ClientSession) -> None:
    url = await create(live, http, "offset.bin", 100)
    assert (await patch(http, url, 5, b"x"))[0] == 409
    assert (await patch(http, url, 0, b"x" * 10))[0] == 204
    assert (await patch(http, url, 0, b"x"))[0] == 409
    assert await offset_of(http, url) == 10


async def test_of_requests_at_one_offset_one_counts(
    live: Live, http: aiohttp.ClientSession
) -> None:
    url = await create(live, http, "twice.bin", PART)
    answers = await asyncio.gather(
        *(patch(http, url, 0, io.BytesIO(bytes([n]) * PART)) for n in range(4))
    )
    assert sorted(status for status, _ in answers) == [204, 409, 409, 409]
    assert len(set(await content(live, "twice.bin"))) == 1


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
async def test_a_chunk_counts_only_if_its_checksum_holds(
    live: Live, http: aiohttp.ClientSession, algorithm: str
) -> None:
    key, size = f"sum-{algorithm}", 250_000
    url = await create(live, http, key, 2 * size)

    def checksum(body: bytes) -> dict[str, str]:
        digest = base64.b64encode(hashlib.new(algorithm, body).digest()).decode()
        return {"Upload-Checksum": f"{algorithm} {digest}"}

    wrong, first, second = BODY[1 : size + 1], BODY[:size], BODY[size : 2 * size]
    assert (await patch(http, url, 0, io.BytesIO(first), **checksum(wrong)))[0] == 460
    assert await offset_of(http, url) == 0
    assert (await patch(http, url, 0, io.BytesIO(first), **checksum(first)))[0] == 204
    assert (await patch(http, url, size, io.BytesIO(second), **checksum(first)))[0] == 460
    assert not await exists(live, key)
    assert (await patch(http, url, size, io.BytesIO(second), **checksum(second)))[0] == 204
    assert await content(live, key) == BODY[: 2 * size]
    for given in ("sha3 eA==", "sha1 !", "sha1"):
        url = await create(live, http, "sum-bad", 1)
        assert (await patch(http, url, 0, b"x", **{"Upload-Checksum": given}))[0] in {400, 460}


async def test_bytes_beyond_the_length_are_refused(live: Live, http: aiohttp.ClientSession) -> None:
    url = await create(live, http, "beyond.bin", 150_000)
    assert (await patch(http, url, 0, io.BytesIO(BODY[:150_001])))[0] == 400
    assert not await exists(live, "beyond.bin")
    offset = await offset_of(http, url)
    assert (await patch(http, url, offset, io.BytesIO(BODY[offset:150_000])))[0] == 204
    assert await content(live, "beyond.bin") == BODY[:150_000]


async def test_an_upload_can_begin_with_its_bytes(live: Live, http: aiohttp.ClientSession) -> None:
    headers = {**CHUNK, "Upload-Length": "5", "Upload-Metadata": metadata(key="with.txt")}
    async with http.post(f"{live.url}/uploads/", headers=headers, data=b"hello") as answer:
        assert (answer.status, answer.headers["Upload-Offset"]) == (201, "5")
    assert await content(live, "with.txt") == b"hello"


async def test_conditions_are_decided_at_the_end_too(
    live: Live, http: aiohttp.ClientSession
) -> None:
    url = await create(live, http, "once.bin", 200_000, if_none_match="*")
    assert (await patch(http, url, 0, io.BytesIO(BODY[:150_000])))[0] == 204
    await live.runtime.services.objects.put(OWNER, "up", "once.bin", text="first")
    assert (await patch(http, url, 150_000, io.BytesIO(BODY[150_000:200_000])))[0] == 412
    assert await content(live, "once.bin") == b"first"
    async with http.head(url, headers=TUS) as answer:
        assert answer.status == 404
    headers = {
        **TUS,
        "Upload-Length": "5",
        "Upload-Metadata": metadata(key="once.bin", if_none_match="*"),
    }
    async with http.post(f"{live.url}/uploads/", headers=headers) as answer:
        assert answer.status == 412


async def test_an_upload_can_be_given_up_and_expires(
    live: Live, http: aiohttp.ClientSession
) -> None:
    before = len(await collected(live))
    urls = [await create(live, http, "gone.bin", 300_000) for _ in range(2)]
    for url in urls:
        assert (await patch(http, url, 0, io.BytesIO(BODY[:250_000])))[0] == 204
    assert len(await collected(live)) > before  # what was acknowledged is no garbage
    async with http.post(urls[0], headers={**TUS, "X-HTTP-Method-Override": "DELETE"}) as answer:
        assert answer.status == 204
    control = live.runtime.engines.control
    async with control.begin() as tx:
        mine = object_uploads.c.id == urls[1].rpartition("/")[2]
        await tx.execute(update(object_uploads).where(mine).values(expires_at=func.now()))
    for url in urls:
        assert (await patch(http, url, 250_000, b"x"))[0] == 404
    await purge(control)
    assert len(await collected(live)) == before


async def test_uploads_are_bounded(live: Live, http: aiohttp.ClientSession) -> None:
    for length, status in ((MOST + 1, 413), (MOST, 201)):
        headers = {
            **TUS,
            "Upload-Length": str(length),
            "Upload-Metadata": metadata(key="bound.bin"),
        }
        async with http.post(f"{live.url}/uploads/", headers=headers) as answer:
            assert answer.status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Length": "1"}, 412),
        ({"Upload-Length": "1", "Tus-Resumable": "0.2.2"}, 412),
        ({**TUS}, 400),
        ({**TUS, "Upload-Length": "-1"}, 400),
        ({**TUS, "Upload-Length": "1", "Upload-Metadata": ""}, 400),
        ({**TUS, "Upload-Length": "1", "Upload-Metadata": "key"}, 400),
        ({**TUS, "Upload-Length": "1", "Upload-Metadata": "key !"}, 400),
        ({**TUS, "Upload-Length": "1", "Upload-Metadata": "key /w=="}, 400),
        ({**TUS, "Upload-Length": "1", "Upload-Metadata": metadata(key="../x")}, 400),
        ({**TUS, "Upload-Length": "1", "Upload-Metadata": metadata(key="k", tags="[]")}, 400),
        ({**TUS, "Upload-Length": "1", "Upload-Metadata": metadata(key="k", bucket="a/b")}, 400),
    ],
)
async def test_what_does_not_fit_is_refused(
    live: Live, http: aiohttp.ClientSession, headers: dict[str, str], status: int
) -> None:
    async with http.post(f"{live.url}/uploads/", headers=headers) as answer:
        assert answer.status == status
        assert answer.headers["Tus-Resumable"] == "1.0.0"
        assert set(await answer.json()) == {"error", "message"}


async def test_a_chunk_must_say_that_it_is_one(live: Live, http: aiohttp.ClientSession) -> None:
    url = await create(live, http, "type.bin", 5)
    for kind in ("application/octet-stream", "text/plain"):
        assert (await patch(http, url, 0, b"hello", **{"Content-Type": kind}))[0] == 415
    async with http.post(url, headers=TUS) as answer:
        assert answer.status == 405


async def test_the_server_describes_itself(live: Live, http: aiohttp.ClientSession) -> None:
    async with http.options(f"{live.url}/uploads/") as answer:
        assert answer.status == 204
        assert answer.headers["Tus-Version"] == "1.0.0"
        assert answer.headers["Tus-Max-Size"] == str(MOST)
        assert "checksum" in answer.headers["Tus-Extension"]


async def test_an_upload_is_its_makers_alone_and_needs_the_right_at_each_chunk(
    live: Live, http: aiohttp.ClientSession
) -> None:
    url = await create(live, http, "mine.bin", 10)
    for scopes, tenant in (
        (("write",), "default"),
        (("write",), "foreign"),
        (("read",), "foreign"),
    ):
        other = (await make_key(live, *scopes, tenant=tenant))["key"]
        async with raw.open_http() as theirs:
            theirs.headers["Authorization"] = f"Bearer {other}"
            for answered in (
                theirs.head(url, headers=TUS),
                theirs.delete(url, headers=TUS),
                theirs.patch(url, headers={**CHUNK, "Upload-Offset": "0"}, data=b"x"),
            ):
                async with answered as answer:
                    assert answer.status == 404
    key = await make_key(live, "write:object://up/theirs/*")
    async with raw.open_http() as theirs:
        theirs.headers["Authorization"] = f"Bearer {key['key']}"
        headers = {**TUS, "Upload-Length": "1", "Upload-Metadata": metadata(key="mine.bin")}
        async with theirs.post(f"{live.url}/uploads/", headers=headers) as answer:
            assert answer.status == 403
        url = await create(live, theirs, "theirs/a", 1)
        await live.runtime.services.keys.revoke(key["id"])
        await asyncio.sleep(1)
        assert (await patch(theirs, url, 0, b"x"))[0] == 401
