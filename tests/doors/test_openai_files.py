"""Files as OpenAI's own client uses them: sent and read as bytes, objects of bucket `files` on every other face."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from mcp_server.auth.principal import OWNER, Principal
from tests.doors.live import Live, open_live

LARGE = (
    bytes(range(256)) * 4096 * 12
)  # 12 MB: more than the bodies that are held in memory may have


@pytest.fixture(scope="module")
async def live(scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "files") as live:
        yield live


@pytest.fixture
async def client(live: Live) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client:
        yield client


async def test_a_file_lives_from_its_upload_to_its_deletion(client: AsyncOpenAI) -> None:
    made = await client.files.create(file=("notes.txt", b"A strip of land."), purpose="user_data")
    assert made.id.startswith("file-")
    assert (made.object, made.bytes, made.filename) == ("file", 16, "notes.txt")
    assert await client.files.retrieve(made.id) == made
    content = await client.files.content(made.id)
    assert content.content == b"A strip of land."
    gone = await client.files.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    for refused in (
        client.files.retrieve(made.id),
        client.files.content(made.id),
        client.files.delete(made.id),
    ):
        with pytest.raises(openai.NotFoundError, match="No such File"):
            await refused


async def test_a_file_is_the_object_of_the_same_id(live: Live, client: AsyncOpenAI) -> None:
    made = await client.files.create(file=("data.json", b"{}"), purpose="assistants")
    stat = await live.runtime.services.objects.stat(OWNER, "files", made.id)
    assert (stat["id"], stat["key"], stat["size"]) == (made.id, made.id, 2)
    stranger = Principal(tenant="stranger", subject="s", scopes=OWNER.scopes, key_id=None)
    with pytest.raises(Exception, match="No such File"):
        await live.runtime.services.files.get(stranger, made.id)


async def test_files_larger_than_a_body_in_memory_are_stored_whole_and_read_in_ranges(
    live: Live, client: AsyncOpenAI
) -> None:
    made = await client.files.create(file=("large.bin", LARGE), purpose="user_data")
    assert made.bytes == len(LARGE)
    assert (await client.files.content(made.id)).content == LARGE
    part = await client.files.content(made.id, extra_headers={"Range": "bytes=255-256"})
    assert part.content == b"\xff\x00"
    assert part.response.status_code == 206
    assert part.response.headers["content-range"] == f"bytes 255-256/{len(LARGE)}"
    with pytest.raises(openai.APIStatusError) as past:
        await client.files.content(made.id, extra_headers={"Range": f"bytes={len(LARGE)}-"})
    assert past.value.status_code == 416


async def test_files_are_listed_by_purpose_in_pages(client: AsyncOpenAI) -> None:
    made = [
        (await client.files.create(file=(f"{n}.png", b"x"), purpose="vision")).id for n in range(3)
    ]
    await client.files.create(file=("other.txt", b"x"), purpose="user_data")
    newest = [each.id async for each in client.files.list(purpose="vision", limit=2)]
    oldest = [each.id async for each in client.files.list(purpose="vision", limit=1, order="asc")]
    assert (newest, oldest) == (made[::-1], made)
    with pytest.raises(openai.BadRequestError, match="after"):
        await client.files.list(after="file-none")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "evals"}, "purpose"),
        ({"purpose": "elsewhere"}, "purpose"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"purpose": "batch", "expires_after": "3600"}, "expires_after"),
    ],
)
async def test_forms_that_do_not_fit_are_refused_by_name_and_store_nothing(
    live: Live, client: AsyncOpenAI, fields: dict[str, str], param: str
) -> None:
    before = [each.id async for each in client.files.list()]
    form = aiohttp.FormData(fields, default_to_multipart=True)
    form.add_field("file", b"x", filename="x.txt")
    assert await _send(live, form) == (400, param)
    assert [each.id async for each in client.files.list()] == before


@pytest.mark.parametrize("part", [{"filename": "a\x07b"}, {"content_type": "no type"}])
async def test_a_name_or_type_that_does_not_fit_is_of_the_form_s_file(
    live: Live, part: dict[str, str]
) -> None:
    named, kind = part.get("filename", "x"), part.get("content_type", "text/plain")
    head = (
        f'Content-Disposition: form-data; name="file"; filename="{named}"\r\nContent-Type: {kind}'
    )
    purpose = 'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch'
    body = f"--b\r\n{purpose}\r\n--b\r\n{head}\r\n\r\nx\r\n--b--\r\n".encode()
    assert await _send(live, body, "multipart/form-data; boundary=b") == (400, "file")


async def test_a_form_without_a_file_or_an_end_is_refused(live: Live) -> None:
    form = aiohttp.FormData({"purpose": "batch"}, default_to_multipart=True)
    assert await _send(live, form) == (400, "file")
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nbroken'
    assert await _send(live, cut, "multipart/form-data; boundary=b") == (400, None)
    assert await _send(live, b"{}", "application/json") == (400, None)


async def _send(
    live: Live, body: aiohttp.FormData | bytes, kind: str | None = None
) -> tuple[int, str | None]:
    headers = {"authorization": f"Bearer {live.key}"} | ({"content-type": kind} if kind else {})
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{live.url}/v1/files", data=body, headers=headers) as answer,
    ):
        return answer.status, (await answer.json())["error"]["param"]
