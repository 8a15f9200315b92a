"""`/openapi.json` as a client gets it, and its refusals as a request meets them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from openai_facade.specification.support import support
from tests.doors.live import Live, http_client, open_live

REFUSED = [
    (key, name) for key, told in support().items() for name in told.refused if key[0] == "POST"
]
VALID: dict[str, dict[str, Any]] = {
    "/chat/completions": {"model": "default", "messages": [{"role": "user", "content": "x"}]},
    "/completions": {"model": "default", "prompt": "x"},
    "/responses": {"model": "default", "input": "x"},
}


@pytest.fixture(scope="module")
async def live(scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "document") as live:
        yield live


@pytest.fixture
async def client(live: Live) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(live.headers) as client:
        yield client


async def test_the_document_is_shown_to_anyone(live: Live) -> None:
    async with http_client() as nobody:
        answer = await nobody.get(f"{live.url}/openapi.json")
    assert answer.status_code == 200
    document = answer.json()
    assert document["openapi"] == "3.1.0"
    assert "post" in document["paths"]["/v1/chat/completions"]
    assert "/v1/fine_tuning/jobs" not in document["paths"]


@pytest.mark.parametrize(("key", "name"), REFUSED, ids=str)
async def test_what_is_told_as_refused_is_refused_by_name(
    live: Live, client: httpx2.AsyncClient, key: tuple[str, str], name: str
) -> None:
    valid, url = VALID[key[1]], f"{live.url}/v1{key[1]}"
    answer = await client.post(url, json={**valid, name: {"id": "x"}})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"][:11]) == (name, "unsupported")
