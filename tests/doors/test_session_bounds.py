"""What one key may hold open, and what the others still get."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from mcp_server.transports import http as http_transport
from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "bounds", llm_url=("scripted:",)) as live:
        yield live


async def test_one_key_cannot_take_every_session(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_transport, "MOST_SESSIONS_PER_KEY", 3)
    greedy, other = [(await make_key(live, "read"))["key"] for _ in range(2)]
    async with raw.open_http() as http:

        async def open_session(key: str) -> tuple[int, str]:
            headers = {
                "Authorization": f"Bearer {key}",
                "Accept": "application/json, text/event-stream",
            }
            async with http.post(
                f"{live.url}/mcp", json=raw.initialize(), headers=headers
            ) as answer:
                await answer.read()
                return answer.status, answer.headers.get("mcp-session-id", "")

        opened = [await open_session(greedy) for _ in range(4)]
        assert [status for status, _ in opened] == [200, 200, 200, 503]
        assert (await open_session(other))[0] == 200
        await close_session(http, live, greedy, opened[0][1])
        assert (await open_session(greedy))[0] == 200


async def close_session(http: aiohttp.ClientSession, live: Live, key: str, session: str) -> None:
    headers = {"Authorization": f"Bearer {key}", "mcp-session-id": session}
    async with http.delete(f"{live.url}/mcp", headers=headers) as answer:
        assert answer.status < 300
