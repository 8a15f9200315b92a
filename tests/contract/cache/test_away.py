"""A whole server whose Redis goes away and comes back: only the cache notices."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server.auth.principal import OWNER
from mcp_server.health import check_engines
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import Settings
from tests.servers.valkey import Valkey


async def call(runtime: Runtime, tool: str, **arguments: Any) -> str | dict[str, Any]:
    result = await runtime.bus.call(OWNER, tool, arguments)
    return result.text if result.is_error else (result.structured or {})


async def test_only_the_cache_is_away(scratch: Path) -> None:
    with Valkey() as server:
        settings = Settings(  # pyright: ignore[reportCallIssue]
            data_dir=scratch / "away", llm_url=("scripted:",), redis_url=server.url
        )
        async with open_runtime(settings, concurrency=0) as runtime:
            cached = {"namespace": "cache/a", "key": "k"}
            assert "version" in await call(runtime, "kv_set", **cached, value=1)
            assert (await check_engines(runtime.engines.checks))["cache"]["ok"] is True
            server.kill()
            for tool, more in (("kv_get", {}), ("kv_set", {"value": 2}), ("kv_increment", {})):
                answer = await call(runtime, tool, **cached, **more)
                assert answer == "unavailable: the cache does not answer; try again"
            written = await call(runtime, "kv_set", key="k", value=1)
            assert await call(runtime, "kv_get", key="k") == written
            health = await check_engines(runtime.engines.checks)
            assert [name for name, engine in health.items() if not engine["ok"]] == ["cache"]
            server.start()
            with anyio.fail_after(30):
                while "version" not in await call(runtime, "kv_set", **cached, value=3):
                    await asyncio.sleep(0.05)
            assert (await check_engines(runtime.engines.checks))["cache"]["ok"] is True
            # Nothing of the cache stands in the journal.
            changes = await call(runtime, "changes")
            assert isinstance(changes, dict)
            assert [item["uri"] for item in changes["items"]] == ["kv://default/k"]


@pytest.mark.parametrize("url", [None, "redis"])
async def test_the_same_calls_answer_alike_with_and_without_redis(
    scratch: Path, valkey: Valkey, url: str | None
) -> None:
    settings = Settings(  # pyright: ignore[reportCallIssue]
        data_dir=scratch / f"alike-{url}",
        llm_url=("scripted:",),
        redis_url=url and valkey.url,
    )
    namespace = f"cache/{scratch.name}"
    async with open_runtime(settings, concurrency=0) as runtime:
        for tool, arguments, expected in (
            ("kv_increment", {"key": "n", "by": 0.1}, {"value": 0.1}),
            ("kv_increment", {"key": "n", "by": 0.2}, {"value": 0.3}),
            ("kv_list", {}, {"next_cursor": None}),
            ("kv_get_many", {"keys": ["n", "o"]}, {"missing": ["o"]}),
            ("kv_lease", {"key": "l", "ttl_seconds": 9}, {"acquired": True}),
            ("kv_lease", {"key": "l", "ttl_seconds": 9}, {"acquired": False}),
            ("kv_delete", {"key": "n"}, {"deleted": True}),
        ):
            answer = await call(runtime, tool, namespace=namespace, **arguments)
            assert isinstance(answer, dict), answer
            assert expected.items() <= answer.items()
        answer = await call(runtime, "kv_set", namespace=namespace, key="n", value=1, fence=7)
        assert answer == "conflict: the lease of token 7 is not held any more"
