"""What one key may hold open, and what the others still get."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
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


@pytest.fixture
async def http(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[aiohttp.ClientSession]:
    monkeypatch.setattr(http_transport, "MOST_SESSIONS_PER_KEY", 3)
    async with raw.open_http() as http:
        yield http


async def is_open(session: raw.Handshake) -> bool:
    status = (await session.request("ping")).status
    assert status in {200, 404}
    return status == 200


async def test_the_session_that_was_idle_longest_gives_way_to_another_of_its_key(
    live: Live, http: aiohttp.ClientSession
) -> None:
    greedy, other = [(await make_key(live, "read"))["key"] for _ in range(2)]
    kept = await raw.Handshake(http, live.url, other).open()
    sessions = [await raw.Handshake(http, live.url, greedy).open() for _ in range(3)]
    assert await is_open(sessions[0])  # and so it is no longer the longest idle
    sessions.append(await raw.Handshake(http, live.url, greedy).open())
    assert [await is_open(session) for session in sessions] == [True, False, True, True]
    sessions += [await raw.Handshake(http, live.url, greedy).open() for _ in range(5)]
    assert [await is_open(session) for session in sessions] == [False] * 6 + [True] * 3
    assert await is_open(kept)


async def test_sessions_at_work_give_way_to_none(live: Live, http: aiohttp.ClientSession) -> None:
    greedy, other = [(await make_key(live, "read"))["key"] for _ in range(2)]
    async with AsyncExitStack() as stack:
        sessions = [await raw.Handshake(http, live.url, greedy).open() for _ in range(3)]
        for session in sessions:
            await stack.enter_async_context(session.listening())
        refused = await raw.Handshake(http, live.url, greedy).post(raw.initialize())
        assert refused.status == 503
        assert refused.error["message"] == "Too many open sessions"
        assert await is_open(await raw.Handshake(http, live.url, other).open())
        ended = await raw.send(http, "DELETE", f"{live.url}/mcp", headers=sessions[0].headers)
        assert ended.status == 200
        assert await is_open(await raw.Handshake(http, live.url, greedy).open())
