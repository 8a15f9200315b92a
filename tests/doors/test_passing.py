"""Moderations, audio and images: passed on to an upstream that serves them, else refused with the setting's name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.doors.live import Live, http_client, open_live, serving

SOUND = bytes(range(256)) * 300
CATEGORIES = """
    harassment harassment/threatening hate hate/threatening illicit illicit/violent self-harm self-harm/intent
    self-harm/instructions sexual sexual/minors violence violence/graphic
"""


@dataclass
class Studio:
    """An upstream that hears, speaks, paints and moderates; it remembers what it was asked."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        routes = [
            Route(f"/v1/{path}", handler, methods=["POST"])
            for path, handler in (
                ("moderations", self.moderate),
                ("audio/transcriptions", self.hear),
                ("audio/speech", self.speak),
                ("images/generations", self.paint),
                ("images/edits", self.paint),
            )
        ]
        return Starlette(routes=routes)

    async def moderate(self, request: Request) -> Response:
        self.asked.append(await request.json())
        names = CATEGORIES.split()
        result = {
            "flagged": False,
            "categories": dict.fromkeys(names, False),
            "category_scores": dict.fromkeys(names, 0.0),
            "category_applied_input_types": {name: ["text"] for name in names},
        }
        return JSONResponse({"id": "modr-1", "model": "guard", "results": [result]})

    async def hear(self, request: Request) -> Response:
        async with request.form() as form:
            file = form["file"]
            assert isinstance(file, UploadFile)
            told = {"file": await file.read(), "name": file.filename, "kind": file.content_type}
            self.asked.append({**{k: v for k, v in form.items() if k != "file"}, **told})
        if form.get("stream") == "true":
            return StreamingResponse(self._events(), media_type="text/event-stream")
        return JSONResponse({"text": "hello", "usage": {"type": "duration", "seconds": 1}})

    async def _events(self) -> AsyncIterator[bytes]:
        yield b'data: {"type":"transcript.text.delta","delta":"hel"}\n\n'
        yield b'data: {"type":"transcript.text.done","text":"hello"}\n\n'

    async def speak(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if body["input"] == "refuse":
            error = {"message": "no such voice", "type": "invalid_request_error", "param": "voice"}
            return JSONResponse({"error": error}, status_code=400)
        return StreamingResponse(self._sound(body["input"]), media_type="audio/mpeg")

    async def _sound(self, text: str) -> AsyncIterator[bytes]:
        try:
            for start in range(0, len(SOUND), 1000):
                yield SOUND[start : start + 1000]
                if text == "break off":
                    raise ConnectionError("planted")
                if text == "wait":
                    await asyncio.Event().wait()
        finally:
            self.left.set()

    async def paint(self, request: Request) -> Response:
        if request.headers["content-type"].startswith("multipart/"):
            async with request.form() as form:
                self.asked.append({k: v for k, v in form.items() if isinstance(v, str)})
        else:
            self.asked.append(await request.json())
        return JSONResponse({"created": 1, "data": [{"b64_json": "aGk="}]})


@pytest.fixture(scope="module")
async def studio() -> Studio:
    return Studio()


@pytest.fixture(scope="module")
async def live(anyio_backend: object, studio: Studio, scratch: Path) -> AsyncIterator[Live]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(studio.app()))
        served = ["moderations", "transcriptions", "speech", "images"]
        upstreams = {"studio": {"url": f"{url}/v1", "serves": served, "models": ["voice-1"]}}
        targets = [{"upstream": "studio", "model": "voice-1"}]
        settings = {"upstreams": upstreams, "models": {"say/it": {"targets": targets}}}
        yield await stack.enter_async_context(
            open_live(scratch / "passing", llm_url=("scripted:",), **settings)
        )


@pytest.fixture
async def client(live: Live, studio: Studio) -> AsyncIterator[AsyncOpenAI]:
    studio.asked.clear()
    studio.left.clear()
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client:
        yield client


async def test_moderations_need_no_model(client: AsyncOpenAI, studio: Studio) -> None:
    answer = await client.moderations.create(input="hello")
    assert not answer.results[0].flagged
    assert studio.asked == [{"input": "hello"}]


@pytest.mark.parametrize("path", ["moderations", "embeddings", "images/generations"])
async def test_who_may_run_an_agent_may_not_ask_a_model_under_its_name(
    live: Live, studio: Studio, path: str
) -> None:
    made = await live.runtime.services.keys.create("agents", scopes=["run:agent://*"])
    body = {"model": "agent/support", "input": "hello", "prompt": "hello"}
    before = len(studio.asked)
    headers = {"Authorization": f"Bearer {made['key']}"}
    async with httpx2.AsyncClient() as http:
        refused = await http.post(f"{live.url}/v1/{path}", json=body, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (
        403,
        "insufficient_permissions",
    )
    assert len(studio.asked) == before


async def test_a_batch_moderates_each_of_its_lines(client: AsyncOpenAI, studio: Studio) -> None:
    path = "/v1/moderations"
    lines = [
        {"custom_id": said, "method": "POST", "url": path, "body": {"input": said}}
        for said in ("hello", "good morning")
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    file = await client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/moderations", completion_window="24h"
    )
    async with asyncio.timeout(60):
        while (batch := await client.batches.retrieve(batch.id)).status != "completed":
            assert batch.status in {"validating", "in_progress", "finalizing"}, batch
            await asyncio.sleep(0.05)
    content = (await client.files.content(batch.output_file_id or "")).text
    answers = [json.loads(line) for line in content.splitlines()]
    assert [each["custom_id"] for each in answers] == ["hello", "good morning"]
    assert not any(each["response"]["body"]["results"][0]["flagged"] for each in answers)
    assert sorted(each["input"] for each in studio.asked) == ["good morning", "hello"]


async def test_a_recording_reaches_the_upstream_byte_for_byte_under_its_own_model(
    client: AsyncOpenAI, studio: Studio
) -> None:
    file = ("talk.wav", b"\r\n--" + SOUND + b"\r\n\r\n--x", "audio/wav")
    answer = await client.audio.transcriptions.create(file=file, model="say/it", language="en")
    assert answer.text == "hello"
    (asked,) = studio.asked
    assert (asked["model"], asked["language"]) == ("voice-1", "en")
    assert (asked["file"], asked["name"], asked["kind"]) == (file[1], "talk.wav", "audio/wav")


async def test_a_transcript_can_be_streamed(client: AsyncOpenAI) -> None:
    stream = await client.audio.transcriptions.create(
        file=("talk.wav", SOUND), model="voice-1", stream=True
    )
    assert [event.type async for event in stream] == [
        "transcript.text.delta",
        "transcript.text.done",
    ]


async def test_speech_comes_back_as_the_bytes_that_it_is(
    client: AsyncOpenAI, studio: Studio
) -> None:
    answer = await client.audio.speech.create(input="hello", model="say/it", voice="alloy")
    assert (answer.content, answer.response.headers["content-type"]) == (SOUND, "audio/mpeg")
    assert studio.asked[0]["model"] == "voice-1"


async def test_images_are_made_and_edited(client: AsyncOpenAI, studio: Studio) -> None:
    made = await client.images.generate(prompt="an isthmus", model="say/it")
    edited = await client.images.edit(image=("a.png", b"png"), prompt="bluer")
    assert made.data
    assert edited.data
    assert made.data[0].b64_json == edited.data[0].b64_json == "aGk="
    assert [each.get("model") for each in studio.asked] == ["voice-1", None]


async def test_a_refusal_of_the_upstream_keeps_its_status_and_words(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no such voice") as refused:
        await client.audio.speech.create(input="refuse", model="voice-1", voice="x")
    assert refused.value.param == "voice"


async def test_an_answer_that_breaks_off_is_seen_to_be_cut(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        await client.audio.speech.create(input="break off", model="voice-1", voice="x")


async def test_a_client_that_leaves_ends_the_upstreams_work(
    client: AsyncOpenAI, studio: Studio
) -> None:
    speech = client.audio.speech.with_streaming_response
    async with speech.create(input="wait", model="voice-1", voice="x") as answer:
        await anext(answer.iter_bytes(1000))
    async with asyncio.timeout(30):
        await studio.left.wait()


MALFORMED: dict[str, tuple[str, dict[str, Any], str | None, str]] = {
    "speech without a model": ("audio/speech", {"json": {"input": "x"}}, "model", "missing_required_parameter"),
    "a model that is a number": ("moderations", {"json": {"model": 3}}, "model", "invalid_type"),
    "a form without an end": (
        "audio/transcriptions",
        {"content": b"--b\r\nfoo", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        None,
        "invalid_form",
    ),
    "a form without a boundary": (
        "images/edits", {"content": b"--b--", "headers": {"Content-Type": "multipart/form-data"}}, None, "invalid_form",
    ),
    "a form of nothing": (
        "audio/transcriptions",
        {"content": b"--b--", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        "model",
        "missing_required_parameter",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_request_is_refused_by_name(
    live: Live, client: AsyncOpenAI, studio: Studio, case: str
) -> None:
    path, given, param, code = MALFORMED[case]
    async with http_client(live.headers) as http:
        answer = await http.post(f"{live.url}/v1/{path}", **given)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert studio.asked == []


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("moderations", "moderations"),
        ("audio/transcriptions", "transcriptions"),
        ("audio/speech", "speech"),
        ("images/generations", "images"),
        ("images/edits", "images"),
    ],
)
async def test_where_nobody_serves_it_the_refusal_names_the_setting(
    bare: httpx2.AsyncClient, path: str, served: str
) -> None:
    answer = await bare.post(f"/v1/{path}", json={"model": "m", "input": "x"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (
        400,
        "model",
        "unsupported_value",
    )
    assert f'serves = ["{served}"]' in error["message"]


@pytest.fixture(scope="module")
async def bare(anyio_backend: object, scratch: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async with open_live(scratch / "nobody-serves", llm_url=("scripted:",)) as live:
        async with httpx2.AsyncClient(base_url=live.url, headers=live.headers) as client:
            yield client


async def test_a_model_cannot_be_deleted(bare: httpx2.AsyncClient) -> None:
    answer = await bare.delete("/v1/models/team/scripted")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.json()["error"]["code"] == "method_not_allowed"
