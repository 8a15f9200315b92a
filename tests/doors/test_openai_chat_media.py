"""Images and files in a chat: the model gets bytes, and what is inside stays out of reach."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_server.auth.principal import OWNER, Principal
from openai_facade import chat_media
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live, serving

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
SHOWN = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def upstream(asked: list[Any]) -> Starlette:
    """A model that remembers what it was asked, beside a site with one image and one page."""

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "eye", "object": "model"}]})

    async def chat(request: Request) -> Response:
        asked.append(await request.json())
        message = {"role": "assistant", "content": "seen"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "chatcmpl-1", "created": 1, "model": "eye", "object": "chat.completion"}
        return JSONResponse({**head, "choices": [choice]})

    async def image(_: Request) -> Response:
        return Response(PNG, media_type="image/png")

    async def page(_: Request) -> Response:
        return Response("<html>", media_type="text/html")

    async def away(_: Request) -> Response:
        return RedirectResponse("/image.png")

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/image.png", image),
            Route("/open/image.png", image),
            Route("/open/away", away),
            Route("/page.html", page),
        ]
    )


class Eye:
    """A server, its client, what its model was asked, and the site that it may reach."""

    def __init__(self, live: Live, client: AsyncOpenAI, asked: list[Any], site: str) -> None:
        self.live, self.client, self.asked, self.site = live, client, asked, site

    async def show(self, *parts: Any, **more: Any) -> Any:
        self.asked.clear()
        content: Any = [{"type": "text", "text": "What is it?"}, *parts]
        answer = await self.client.chat.completions.create(
            model="eye", messages=[{"role": "user", "content": content}], **more
        )
        assert answer.choices[0].message.content == "seen"
        return self.asked[0]["messages"][0]["content"][1:]

    async def put(self, key: str, data: bytes, kind: str, principal: Principal = OWNER) -> None:
        await self.live.runtime.services.objects.put(
            principal,
            "files",
            key,
            base64=base64.b64encode(data).decode(),
            content_type=kind,
            metadata={"filename": f"{key}.name"},
        )


@pytest.fixture(scope="module")
async def eye(scratch: Path) -> AsyncIterator[Eye]:
    asked: list[Any] = []
    async with serving(upstream(asked)) as site:
        allowed = site.removeprefix("http://")
        async with (
            open_live(scratch / "media", llm_url=(f"{site}/v1",), fetch_allow=(allowed,)) as live,
            AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client,
        ):
            yield Eye(live, client, asked, site)


def image(url: str) -> Any:
    return {"type": "image_url", "image_url": {"url": url}}


def file(file_id: str) -> Any:
    return {"type": "file", "file": {"file_id": file_id}}


async def test_an_outside_image_is_fetched_and_its_bytes_are_shown(eye: Eye) -> None:
    assert await eye.show(image(f"{eye.site}/image.png")) == [image(SHOWN)]


async def test_an_image_that_comes_with_its_bytes_stays_as_it_is(eye: Eye) -> None:
    assert await eye.show(image(SHOWN)) == [image(SHOWN)]


async def test_files_of_the_tenant_are_shown_by_their_id(eye: Eye) -> None:
    await eye.put("file-text", b"hello", "text/plain; charset=utf-8")
    await eye.put("file-image", PNG, "image/png")
    await eye.put("file-other", b"%PDF", "application/pdf")

    text, picture, other = await eye.show(file("file-text"), file("file-image"), file("file-other"))

    assert text == {"type": "text", "text": "file-text.name:\nhello"}
    assert picture == image(SHOWN)
    assert other["file"] == {
        "filename": "file-other.name",
        "file_data": "data:application/pdf;base64,JVBERg==",
    }


async def test_a_stored_chat_keeps_what_was_sent_and_not_the_bytes(eye: Eye) -> None:
    url = f"{eye.site}/image.png"
    await eye.show(image(url), store=True)
    (chat,) = (await eye.client.chat.completions.list()).data
    (message,) = (await eye.client.chat.completions.messages.list(chat.id)).data
    part: Any = (message.content_parts or [])[1]
    assert part.image_url.url == url


async def refused(eye: Eye, *parts: Any) -> tuple[str | None, str | None]:
    with pytest.raises(openai.BadRequestError) as caught:
        await eye.show(*parts)
    assert eye.asked == []
    return caught.value.param, caught.value.code


async def test_what_is_not_to_be_had_is_refused_by_its_place(eye: Eye) -> None:
    await eye.live.runtime.services.keys.create("theirs", tenant="other")
    await eye.put("file-theirs", b"secret", "text/plain", Principal("other", "x", OWNER.scopes))
    place = "messages[0].content[1]"

    assert await refused(eye, image(f"{eye.site}/page.html")) == (
        f"{place}.image_url.url",
        "invalid_image_url",
    )
    for url in ("http://169.254.169.254/", "http://127.0.0.1:1/", "file:///etc/passwd", "x"):
        assert await refused(eye, image(url)) == (f"{place}.image_url.url", "invalid_value")
    for missing in ("file-theirs", "file-none", "../x"):
        assert await refused(eye, file(missing)) == (f"{place}.file.file_id", "invalid_value")


async def test_a_key_that_may_read_some_urls_is_led_to_no_others(eye: Eye) -> None:
    made = await make_key(eye.live, "run", f"read:{eye.site}/open/*")
    narrow = Eye(eye.live, eye.client.with_options(api_key=made["key"]), eye.asked, eye.site)

    assert await narrow.show(image(f"{eye.site}/open/image.png")) == [image(SHOWN)]
    for place in ("image.png", "open/away", "open/../image.png", "open/%2e%2E/image.png"):
        with pytest.raises(openai.PermissionDeniedError):
            await narrow.show(image(f"{eye.site}/{place}"))
        assert eye.asked == []


async def test_images_and_files_have_a_bound(eye: Eye, monkeypatch: pytest.MonkeyPatch) -> None:
    await eye.put("file-long", b"x" * 100, "text/plain")
    monkeypatch.setattr(chat_media, "MOST_BYTES", 150)
    monkeypatch.setattr(chat_media, "MOST_PARTS", 2)
    place = "messages[0].content[2].file.file_id"

    assert await eye.show(file("file-long"))
    assert await refused(eye, *[file("file-long")] * 2) == (place, "file_too_large")
    monkeypatch.setattr(chat_media, "MOST_BYTES", 1000)
    param, code = await refused(eye, *[file("file-long")] * 3)
    assert (param, code) == ("messages[0].content[3].file.file_id", "invalid_value")
