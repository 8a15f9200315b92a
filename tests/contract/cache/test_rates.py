"""Rates counted in Redis: one budget for all processes, refused clearly while it is away, counted again when it is back."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.errors import LimitExceeded, Unavailable
from mcp_server.limits import Limits
from tests.servers.valkey import Valkey

RATE = 400
# Another process that counts until it is refused, and prints how often it was not.
COUNTING = """
import asyncio, sys
from mcp_server.auth.principal import Principal
from mcp_server.errors import LimitExceeded
from mcp_server.limits import Limits

async def main():
    limits = Limits(sys.argv[2], sys.argv[1])
    counted = 0
    await limits.count(Principal("t", "s", frozenset(), key_id=sys.argv[3]))
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        while True:
            await limits.count(Principal("t", "s", frozenset(), key_id="shared"))
            counted += 1
    except LimitExceeded:
        print(counted, flush=True)
    await limits.close()

asyncio.run(main())
"""


@pytest.fixture
def own() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@asynccontextmanager
async def open_limits(rate: str | None, server: Valkey) -> AsyncGenerator[Limits]:
    limits = Limits(rate, server.url)
    try:
        yield limits
    finally:
        await limits.close()


def caller(key: str) -> Principal:
    return Principal("t", "s", OWNER_SCOPES, key_id=key)


async def test_processes_share_one_budget(own: Valkey) -> None:
    # Each is connected before it is ready: both count at once then.
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", COUNTING, own.url, f"{RATE}/day", f"own-{number}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        for number in range(2)
    ]
    try:
        async with asyncio.timeout(60):
            for process in processes:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"ready\n"
            answers = await asyncio.gather(*(each.communicate(b"\n") for each in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
    counts = [int(out) for out, _ in answers]
    assert sum(counts) == RATE
    assert min(counts) > 0  # both had a part in it
    async with open_limits(f"{RATE}/day", own) as limits:
        with pytest.raises(LimitExceeded):
            await limits.count(caller("shared"))
        await limits.count(caller("another"))


async def test_while_redis_is_away_nothing_goes_on_uncounted(own: Valkey) -> None:
    async with open_limits("2/day", own) as limits, open_limits(None, own) as unlimited:
        await limits.count(caller("k"))
        own.kill()
        for _ in range(2):
            with pytest.raises(Unavailable, match="the rate cannot be counted"):
                await limits.count(caller("k"))
        # Whoever has no rate is not counted, and so not held up.
        await unlimited.count(caller("k"))
        own.start()
        await limits.count(caller("k"))
        await limits.count(caller("k"))
        with pytest.raises(LimitExceeded) as refused:
            await limits.count(caller("k"))
        assert 0 < (refused.value.retry_after or 0) <= 24 * 3600


async def test_a_redis_that_stands_still_holds_a_request_up_for_a_bounded_time(own: Valkey) -> None:
    async with open_limits("5/day", own) as limits:
        await limits.count(caller("k"))
        own.pause()
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="the rate cannot be counted"):
            await limits.count(caller("k"))
        assert time.monotonic() - begun < 30
        own.resume()
        await limits.count(caller("k"))
