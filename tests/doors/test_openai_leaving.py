"""A client that leaves, before the first byte or in mid-stream: no route keeps its upstream, its place or its tool."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcp_server.llm.guarded import Guarded
from tests.contract.llm_upstream import EVENT_STREAM, Exchange, Upstream, chunk, serving
from tests.doors.live import Live, open_live

BODIES: dict[str, Callable[[str], dict[str, Any]]] = {
    "chat/completions": lambda said: {"messages": [{"role": "user", "content": said}]},
    "completions": lambda said: {"prompt": said},
    "responses": lambda said: {"input": said},
}
MOMENTS = ("whole", "before the first byte", "mid-stream")


async def endless(exchange: Exchange) -> None:
    """Say what the last message asks for, and never end."""
    if exchange.line.startswith("GET"):
        await exchange.send_json(200, {"object": "list", "data": [{"id": "m"}]})
        return
    if "mid-stream" in json.dumps(exchange.body["messages"]):
        await exchange.send(EVENT_STREAM)
        await exchange.send_events(chunk("one"), chunk("two"))
    await exchange.gone.wait()


@pytest.fixture(scope="module")
async def upstream(anyio_backend: object) -> AsyncIterator[Upstream]:
    async with serving(endless) as upstream:
        yield upstream


@pytest.fixture(scope="module")
async def live(upstream: Upstream, scratch: Path) -> AsyncIterator[Live]:
    # One place and no queue: whatever keeps it refuses the next.
    only = {"url": upstream.url, "models": ["m"], "concurrency": 1, "queue": 0}
    async with open_live(
        scratch / "leaving", llm_url=(), llm_model="m", upstreams={"only": only}
    ) as live:
        yield live


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("route", BODIES)
async def test_who_leaves_takes_the_upstreams_request_and_its_place_along(
    live: Live, upstream: Upstream, route: str, moment: str
) -> None:
    for _ in range(2):  # the second finds the place free
        upstream.exchanges.clear()
        asking = asyncio.create_task(_ask(live, route, moment))
        exchange = await _asked(upstream)
        if moment == "mid-stream":
            assert await asking == 200
        else:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        left = time.monotonic()
        async with asyncio.timeout(30):
            await exchange.gone.wait()
        print(f"{route}, {moment}: gone after {(time.monotonic() - left) * 1000:.0f} ms")
        await _idle(live)


async def _ask(live: Live, route: str, moment: str) -> int:
    """Ask, and leave with the first words."""
    body = {"model": "m", "stream": moment != "whole", **BODIES[route](moment)}
    async with (
        httpx2.AsyncClient(headers=live.headers, timeout=60) as http,
        http.stream("POST", f"{live.url}/v1/{route}", json=body) as answer,
    ):
        async for line in answer.aiter_lines():
            if "one" in line:
                break
        return answer.status_code


async def _asked(upstream: Upstream) -> Exchange:
    async with asyncio.timeout(30):
        while not upstream.exchanges:
            await asyncio.sleep(0.005)
    return upstream.exchanges[0]


async def _idle(live: Live) -> None:
    """Wait until the upstream has a place again, as the server itself counts them."""
    guarded = live.runtime.engines.router.upstreams[0]
    assert isinstance(guarded, Guarded)
    async with asyncio.timeout(30):
        while guarded.slots.held:
            await asyncio.sleep(0.005)
