"""Files that OpenAI's own client sends in parts, and files that live for a time only."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy import func, select, text, update

from mcp_server.auth.principal import OWNER
from mcp_server.services import file_uploads
from mcp_server.services.objects.collector import sweep_orphans
from mcp_server.services.objects.expiry import purge_expired
from mcp_server.services.objects.file_upload_rows import purge
from mcp_server.storage.sql.schema import garbage_blobs, objects
from mcp_server.storage.sql.upload_tables import file_upload_parts
from mcp_server.storage.sql.upload_tables import file_uploads as uploads
from tests.doors.live import Live, open_live

BODY = bytes(range(256)) * 400


@pytest.fixture(scope="module")
async def live(scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "file-uploads") as live:
        yield live


@pytest.fixture
async def client(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
async def strange_key(live: Live) -> str:
    return (await live.runtime.services.keys.create("other", tenant="stranger"))["key"]


async def begin(client: AsyncOpenAI, length: int, **more: Any) -> str:
    made = await client.uploads.create(
        filename="data.bin", purpose="assistants", bytes=length, mime_type="text/plain", **more
    )
    assert (made.status, made.bytes, made.expires_at - made.created_at) == ("pending", length, 3600)
    return made.id


async def send(client: AsyncOpenAI, upload: str, data: bytes) -> str:
    part = await client.uploads.parts.create(upload, data=data)
    assert part.upload_id == upload
    return part.id


async def test_the_sdk_sends_a_file_in_chunks(live: Live, client: AsyncOpenAI) -> None:
    done = await client.uploads.upload_file_chunked(
        file=BODY,
        filename="notes.txt",
        bytes=len(BODY),
        mime_type="text/plain",
        part_size=40_000,
        purpose="assistants",
        md5=hashlib.md5(BODY, usedforsecurity=False).hexdigest(),
    )
    assert done.status == "completed"
    assert done.file is not None
    file = await client.files.retrieve(done.file.id)
    assert file == done.file
    assert (file.filename, file.purpose, file.bytes) == ("notes.txt", "assistants", len(BODY))
    assert (await client.files.content(file.id)).content == BODY
    stat = await live.runtime.services.objects.stat(OWNER, "files", file.id)
    assert (stat["id"], stat["content_type"]) == (file.id, "text/plain")
    async with live.runtime.engines.control.connect() as tx:
        assert await tx.scalar(select(func.count()).select_from(file_upload_parts)) == 0


async def test_parts_come_in_any_order_at_once_and_again(client: AsyncOpenAI) -> None:
    upload = await begin(client, 6)
    lost, c, b, a = await asyncio.gather(
        *(send(client, upload, each) for each in (b"ab", b"ef", b"cd", b"ab"))
    )
    done = await client.uploads.complete(upload, part_ids=[a, b, c])
    assert done.file is not None
    assert (await client.files.content(done.file.id)).content == b"abcdef"
    assert await client.uploads.complete(upload, part_ids=[a, b, c]) == done
    with pytest.raises(openai.BadRequestError, match="completed"):
        await client.uploads.complete(upload, part_ids=[lost, b, c])
    for late in (send(client, upload, b"x"), client.uploads.cancel(upload)):
        with pytest.raises(openai.BadRequestError, match="completed"):
            await late


async def test_two_ends_at_once_make_one_file(live: Live, client: AsyncOpenAI) -> None:
    upload = await begin(client, 4)
    parts = [await send(client, upload, each) for each in (b"ab", b"cd")]
    before = len([each async for each in client.files.list()])
    ended = await asyncio.gather(
        *(client.uploads.complete(upload, part_ids=parts) for _ in range(4))
    )
    assert len({each.file.id for each in ended if each.file is not None}) == 1
    assert len([each async for each in client.files.list()]) == before + 1


@pytest.mark.parametrize("alone", [True, False])
async def test_what_does_not_fit_makes_no_file_and_may_be_mended(
    client: AsyncOpenAI, *, alone: bool
) -> None:
    upload, other = await begin(client, 4), await begin(client, 4)
    parts = [await send(client, upload, each) for each in ((b"abcd",) if alone else (b"ab", b"cd"))]
    foreign = await send(client, other, b"abcd")
    before = [each.id async for each in client.files.list()]
    for wrong, md5 in (
        ([], None),
        ([*parts, parts[0]], None),
        ([foreign], None),
        (["part_none"], None),
        ([*parts, await send(client, upload, b"x")], None),
        (parts, "0" * 32),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.uploads.complete(upload, part_ids=wrong, md5=md5 or openai.omit)
        assert refused.value.param == ("md5" if md5 else "part_ids")
    assert [each.id async for each in client.files.list()] == before
    done = await client.uploads.complete(upload, part_ids=parts)
    assert done.file is not None
    assert (await client.files.content(done.file.id)).content == b"abcd"


async def test_a_cancelled_upload_takes_nothing_more_and_keeps_nothing(
    live: Live, client: AsyncOpenAI
) -> None:
    upload = await begin(client, 4)
    part = await send(client, upload, b"abcd")
    async with live.runtime.engines.control.connect() as tx:
        here = select(file_upload_parts.c.blob).where(file_upload_parts.c.id == part)
        blob = await tx.scalar(here)
    assert (await client.uploads.cancel(upload)).status == "cancelled"
    assert (await client.uploads.cancel(upload)).status == "cancelled"
    for late in (send(client, upload, b"x"), client.uploads.complete(upload, part_ids=[part])):
        with pytest.raises(openai.BadRequestError, match="cancelled"):
            await late
    async with live.runtime.engines.control.connect() as tx:
        assert await tx.scalar(select(garbage_blobs.c.blob).where(garbage_blobs.c.blob == blob))


async def test_an_upload_ends_after_an_hour_and_is_forgotten_later(
    live: Live, client: AsyncOpenAI
) -> None:
    control = live.runtime.engines.control
    upload = await begin(client, 4)
    part = await send(client, upload, b"abcd")
    # However young: what a row names stays.
    await sweep_orphans(control, live.runtime.engines.blobs, timedelta(seconds=-60))
    for hours, error in ((1, "expired"), (3, "No such Upload")):
        async with control.begin() as tx:
            past = {"expires_at": func.now() - text(f"interval '{hours} hours' + interval '1 s'")}
            await tx.execute(update(uploads).where(uploads.c.id == upload).values(past))
        if hours > 1:
            await purge(control)
        for late in (
            send(client, upload, b"x"),
            client.uploads.complete(upload, part_ids=[part]),
            client.uploads.cancel(upload),
        ):
            with pytest.raises(openai.APIStatusError, match=error):
                await late
    async with control.connect() as tx:
        here = select(func.count()).where(file_upload_parts.c.upload == upload)
        assert await tx.scalar(here) == 0


async def test_another_tenants_uploads_do_not_exist(
    live: Live, client: AsyncOpenAI, strange_key: str
) -> None:
    upload = await begin(client, 2)
    part = await send(client, upload, b"ab")
    async with AsyncOpenAI(
        base_url=f"{live.url}/v1", api_key=strange_key, max_retries=0
    ) as stranger:
        own = await begin(stranger, 2)
        for refused in (
            send(stranger, upload, b"cd"),
            stranger.uploads.complete(upload, part_ids=[part]),
            stranger.uploads.cancel(upload),
        ):
            with pytest.raises(openai.NotFoundError, match="No such Upload"):
                await refused
        with pytest.raises(openai.BadRequestError, match="no part of this upload"):
            await stranger.uploads.complete(own, part_ids=[part])
    assert (await client.uploads.complete(upload, part_ids=[part])).status == "completed"


async def test_parts_have_bounds(
    live: Live, client: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_uploads, "MOST_PART_BYTES", 1000)
    upload = await begin(client, 100)
    with pytest.raises(openai.APIStatusError) as large:
        await send(client, upload, bytes(1001))
    assert (large.value.status_code, large.value.param) == (413, "data")  # type: ignore[attr-defined]
    await send(client, upload, bytes(1000))
    with pytest.raises(openai.BadRequestError, match="too much"):
        await send(client, upload, bytes(300))


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"bytes": -1}, "bytes"),
        ({"bytes": 2**52}, "bytes"),
        ({"purpose": "evals"}, "purpose"),
        ({"mime_type": "no type"}, "mime_type"),
        ({"filename": ""}, "filename"),
        ({"filename": "a\x00b"}, "filename"),
        ({"expires_after": {"anchor": "created_at", "seconds": 10}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor"),
    ],
)
async def test_terms_that_do_not_fit_are_refused_by_name(
    client: AsyncOpenAI, given: dict[str, Any], param: str
) -> None:
    terms = {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "text/plain"} | given
    with pytest.raises(openai.BadRequestError) as refused:
        await client.uploads.create(**terms)
    assert refused.value.param == param


@pytest.mark.parametrize("in_parts", [True, False])
async def test_a_file_that_expired_is_gone_on_every_face_before_it_is_purged(
    live: Live, client: AsyncOpenAI, *, in_parts: bool
) -> None:
    control, bus = live.runtime.engines.control, live.runtime.bus
    after: Any = {"anchor": "created_at", "seconds": 3600}
    if in_parts:
        upload = await begin(client, 4, expires_after=after)
        part = await send(client, upload, b"abcd")
        file = (await client.uploads.complete(upload, part_ids=[part])).file
    else:
        file = await client.files.create(
            file=("a", b"abcd"), purpose="user_data", expires_after=after
        )
    assert file is not None
    assert file.expires_at == file.created_at + 3600
    assert await client.files.retrieve(file.id) == file
    async with control.begin() as tx:
        await tx.execute(
            update(objects)
            .where(objects.c.id == file.id)
            .values(expires_at=func.now() - text("interval '1 s'"))
        )
    for refused in (
        client.files.retrieve(file.id),
        client.files.content(file.id),
        client.files.delete(file.id),
    ):
        with pytest.raises(openai.NotFoundError, match="No such File"):
            await refused
    assert file.id not in [each.id async for each in client.files.list()]
    store = await client.vector_stores.create()
    with pytest.raises(openai.NotFoundError, match="No such File"):
        await client.vector_stores.files.create(store.id, file_id=file.id)
    over = {"bucket": "files", "key": file.id}
    assert (await bus.call(OWNER, "object_get", over)).is_error
    listed = await bus.call(OWNER, "object_list", {"bucket": "files", "prefix": file.id})
    assert listed.structured["items"] == []  # type: ignore[index]
    if in_parts:  # what is written there now is another object
        put = await bus.call(OWNER, "object_put", over | {"text": "new"})
        assert not put.is_error
    assert await purge_expired(control) == (0 if in_parts else 1)
    async with control.connect() as tx:
        kept = await tx.scalar(select(func.count()).where(objects.c.key == file.id))
    assert kept == (1 if in_parts else 0)
