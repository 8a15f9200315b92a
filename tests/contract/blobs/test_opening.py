"""How the choice of an engine by its URL ends: with the engine, or with one line that says the mend."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from mcp_server.errors import ConfigurationError
from mcp_server.storage.objects import open_blobs
from tests.contract.blobs.conftest import opening
from tests.servers.juicefs import JuiceFs
from tests.servers.ports import free_ports
from tests.servers.s3 import SECRET_KEY, S3Server


@pytest.fixture(params=["juicefs", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> S3Server:
    return request.getfixturevalue(request.param)


async def refused(url: str, folder: Path, public_url: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        async with open_blobs(opening(url, folder, public_url)):
            pass
    assert SECRET_KEY not in str(caught.value)
    return str(caught.value)


async def test_a_bucket_that_is_missing_is_made(server: S3Server, tmp_path: Path) -> None:
    bucket = f"made-{abs(hash(tmp_path))}"
    async with open_blobs(opening(server.url(bucket), tmp_path)) as store:
        await store.answers()
    assert server.client().bucket_exists(bucket)


async def test_two_processes_may_make_it_at_once(server: S3Server, tmp_path: Path) -> None:
    bucket = f"raced-{abs(hash(tmp_path))}"

    async def one() -> None:
        async with open_blobs(opening(server.url(bucket), tmp_path)) as store:
            await store.answers()

    await asyncio.gather(*(one() for _ in range(4)))


async def test_nothing_is_left_of_an_opening(server: S3Server, tmp_path: Path) -> None:
    bucket = f"empty-{abs(hash(tmp_path))}"
    async with open_blobs(opening(server.url(bucket), tmp_path)):
        pass
    assert list(server.client().list_objects(bucket, recursive=True)) == []


async def test_the_prefix_of_the_url_stands_before_every_name(
    server: S3Server, tmp_path: Path
) -> None:
    where = opening(server.url("prefixed", prefix="isthmus/one/"), tmp_path)

    async def chunks():
        yield b"x"

    async with open_blobs(where) as store:
        blob = await store.put(chunks())
    found = [item.object_name for item in server.client().list_objects("prefixed", recursive=True)]
    assert f"isthmus/one/{where.namespace}/{blob.key}" in found


async def test_a_wrong_secret_is_told(server: S3Server, tmp_path: Path) -> None:
    line = await refused(server.url("blobs").replace(SECRET_KEY, "another-secret"), tmp_path)
    assert line.startswith(f"ISTHMUS_OBJECTS_URL: {server.endpoint} refuses the key")
    assert "another-secret" not in line


async def test_a_wrong_key_is_told(server: S3Server, tmp_path: Path) -> None:
    line = await refused(server.url("blobs").replace("isthmus-tests", "nobody-knows"), tmp_path)
    assert line.startswith(f"ISTHMUS_OBJECTS_URL: {server.endpoint} refuses the key")


async def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    line = await refused(f"s3://k:s3cr3t@127.0.0.1:{port}/blobs?secure=false", tmp_path)
    assert line.startswith(f"ISTHMUS_OBJECTS_URL: no S3 server answers at 127.0.0.1:{port}; start")
    assert "s3cr3t" not in line


async def test_tls_to_a_server_without_it_is_told(juicefs: JuiceFs, tmp_path: Path) -> None:
    line = await refused(juicefs.url("blobs", secure="true"), tmp_path)
    assert "correct the host, the port and `secure`" in line


async def test_what_answers_and_is_no_s3_server_is_told(tmp_path: Path) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<hr>")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(page, "127.0.0.1", 0) as web:
        port = web.sockets[0].getsockname()[1]
        line = await refused(f"s3://key:secret@127.0.0.1:{port}/blobs?secure=false", tmp_path)
    assert line.startswith(f"ISTHMUS_OBJECTS_URL: what answers at 127.0.0.1:{port} is no S3 server")


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("s3://key:secret@h:1", "does not name a host and one bucket"),
        ("s3://key:secret@h:1/one/two", "does not name a host and one bucket"),
        ("s3://h:1/bucket", "has no key and secret"),
        ("s3://key@h:1/bucket", "has no key and secret"),
        ("s3://key:secret@h:1/bucket?secure=perhaps", "secure='perhaps' is neither"),
        ("s3://key:secret@h:1/bucket?mode=rw", "'mode' is no option of it"),
        ("s3://key:secret@h:1/bucket?region=a&region=b", "an option stands twice"),
        ("s3://key:secret@127.0.0.1:1/no?secure=false", "cannot be a bucket's name"),
        ("gs://key:secret@h:1/bucket", "no blob store for gs://"),
    ],
)
async def test_a_malformed_url_is_told(tmp_path: Path, url: str, line: str) -> None:
    said = await refused(url, tmp_path)
    assert said.startswith("ISTHMUS_OBJECTS_URL: ")
    assert line in said


async def test_a_public_url_with_a_path_is_told(juicefs: JuiceFs, tmp_path: Path) -> None:
    line = await refused(juicefs.url("blobs"), tmp_path, "https://example.com/files")
    assert line.startswith("ISTHMUS_OBJECTS_PUBLIC_URL: ")


async def test_a_missing_extra_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("mcp_server.storage.objects.s3")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "minio", None)
    assert "pip install 'isthmus[s3]'" in await refused("s3://k:s@127.0.0.1:1/bucket", tmp_path)
