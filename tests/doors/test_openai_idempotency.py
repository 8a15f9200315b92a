"""Requests that are sent again with their idempotency key: made once, and answered alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import func, select, text

from mcp_server.storage.sql.conversation_tables import conversations
from tests.doors.fixtures import make_key
from tests.doors.live import Live, http_client, open_live


@pytest.fixture(scope="module")
async def live(scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "idempotency", llm_url=("scripted:",)) as live:
        yield live


@pytest.fixture
async def client(live: Live) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(live.headers) as client:
        client.base_url = live.url
        yield client


def sent(client: httpx2.AsyncClient, path: str, body: Any, key: str, **headers: str) -> Any:
    return client.post(f"/v1{path}", json=body, headers={"Idempotency-Key": key, **headers})


async def made(live: Live) -> int:
    async with live.runtime.engines.control.connect() as tx:
        return await tx.scalar(select(func.count()).select_from(conversations)) or 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/conversations", {"metadata": {"a": "b"}}),
        ("/vector_stores", {"name": "again"}),
        ("/responses", {"model": "default", "input": "x", "background": True}),
        ("/responses", {"model": "default", "input": "x", "store": True}),
        (
            "/uploads",
            {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "text/plain"},
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_the_same_request_is_made_once(
    client: httpx2.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    key = uuid4().hex
    first = await sent(client, path, body, key)
    again = await sent(client, path, body, key)
    assert first.status_code == again.status_code == 200, again.text
    assert first.content == again.content
    assert first.headers["x-request-id"] != again.headers["x-request-id"]


async def test_a_key_that_comes_with_another_request_is_refused(
    client: httpx2.AsyncClient,
) -> None:
    assert (await sent(client, "/conversations", {}, "taken")).status_code == 200
    for path, body in (("/conversations", {"metadata": {}}), ("/vector_stores", {})):
        refused = await sent(client, path, body, "taken")
        assert refused.status_code == 422
        assert refused.json()["error"]["code"] == "idempotency_key_reused"


async def test_of_twins_at_once_one_is_made_and_the_others_wait_or_get_its_answer(
    live: Live, client: httpx2.AsyncClient
) -> None:
    before = await made(live)
    answers = await asyncio.gather(*(sent(client, "/conversations", {}, "twins") for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    told = {answer.json()["id"] for answer in answers if answer.status_code == 200}
    assert len(told) == 1
    assert await made(live) == before + 1
    assert (await sent(client, "/conversations", {}, "twins")).json()["id"] in told


async def test_a_key_is_the_callers_own(live: Live, client: httpx2.AsyncClient) -> None:
    own = await sent(client, "/conversations", {}, "whose")
    for tenant in ("default", "foreign"):
        other = await make_key(live, "read", "write", tenant=tenant)
        theirs = await sent(
            client, "/conversations", {}, "whose", Authorization=f"Bearer {other['key']}"
        )
        assert theirs.status_code == 200, theirs.text
        assert theirs.json()["id"] != own.json()["id"]


async def test_a_refused_request_gives_its_key_back(client: httpx2.AsyncClient) -> None:
    refused = await sent(client, "/conversations", {"metadata": 1}, "mended")
    assert refused.status_code == 400
    assert (await sent(client, "/conversations", {}, "mended")).status_code == 200


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ключ".encode().decode("latin-1")])
async def test_a_key_that_is_none_is_refused(client: httpx2.AsyncClient, key: str) -> None:
    refused = await client.post(
        "/v1/conversations", json={}, headers=[(b"Idempotency-Key", key.encode("latin-1"))]
    )
    assert refused.status_code == 400
    assert "Idempotency-Key" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "lost", ["expires_at = now()", "answer = null, claimed_until = now()"], ids=["old", "dead"]
)
async def test_a_key_is_free_after_a_day_or_when_its_process_died(
    live: Live, client: httpx2.AsyncClient, lost: str
) -> None:
    first = await sent(client, "/conversations", {}, f"free-{lost[:3]}")
    async with live.runtime.engines.control.begin() as tx:
        await tx.execute(
            text(f"update idempotent_answers set {lost} where key = :key"),
            {"key": f"free-{lost[:3]}"},
        )
    later = await sent(client, "/conversations", {}, f"free-{lost[:3]}")
    assert later.status_code == 200
    assert later.json()["id"] != first.json()["id"]


async def test_a_response_that_is_being_made_is_not_made_beside(
    live: Live, client: httpx2.AsyncClient
) -> None:
    body = {"model": "default", "input": "x"}
    answers = await asyncio.gather(
        *(sent(client, "/responses", body, "model-twins") for _ in "abcd")
    )
    assert {answer.status_code for answer in answers} <= {200, 409}
    told = {answer.json()["id"] for answer in answers if answer.status_code == 200}
    assert len(told) == 1
    later = await sent(client, "/responses", body, "model-twins")
    assert later.json()["id"] in told


async def test_an_upload_that_is_completed_again_is_answered_alike(
    client: httpx2.AsyncClient,
) -> None:
    terms = {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "text/plain"}
    upload = f"/uploads/{(await sent(client, '/uploads', terms, 'upload')).json()['id']}"
    part = await client.post(f"/v1{upload}/parts", files={"data": b"x"})
    ends = [
        await sent(client, f"{upload}/complete", {"part_ids": [part.json()["id"]]}, "complete")
        for _ in range(2)
    ]
    assert {end.status_code for end in ends} == {200}
    assert ends[0].content == ends[1].content


async def test_an_answer_of_a_model_that_is_not_stored_is_made_each_time_and_not_kept(
    live: Live, client: httpx2.AsyncClient
) -> None:
    body = {"model": "default", "input": "x", "store": False}
    ids = {(await sent(client, "/responses", body, "model")).json()["id"] for _ in range(2)}
    assert len(ids) == 2
    async with live.runtime.engines.control.connect() as tx:
        query = text("select count(*) from idempotent_answers where key = 'model'")
        assert await tx.scalar(query) == 0
