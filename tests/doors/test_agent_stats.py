"""agent_stats: how runs of agents ended, how long they took and what they used up, for those who see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.live import Live, open_live

TURNS = """
turns:
- tool_calls:
  - {name: kv_set, arguments: {key: counted, value: 1}}
  - {name: kv_get, arguments: {key: nowhere}}
- text: It is kept.
"""
TOOLS = ["kv_set", "kv_get"]


@pytest.fixture(scope="module")
async def live(
    anyio_backend: object, scratch: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Live]:
    script = tmp_path_factory.mktemp("script") / "turns.yaml"
    script.write_text(TURNS)
    async with open_live(scratch / "stats", llm_url=(f"scripted:{script}",)) as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


@pytest.fixture
async def owner(live: Live) -> str:
    """A key of a new tenant, so that nobody else's runs are counted."""
    tenant = f"t{len(await live.runtime.services.keys.list())}"
    return (await make_key(live, "read", "write", "run", tenant=tenant))["key"]


async def ask(http: aiohttp.ClientSession, live: Live, key: str, tool: str, **given: Any) -> Any:
    answer = await raw.call(http, live.url, key, tool, given)
    assert not answer.result.get("isError"), answer.result
    return answer.result["structuredContent"]


async def run(http: aiohttp.ClientSession, live: Live, key: str, **definition: Any) -> Any:
    await ask(http, live, key, "agent_save", instructions="", **definition)
    return await ask(http, live, key, "agent_run", agent=definition["name"], input="Keep it.")


async def test_runs_are_counted_by_agent_with_what_they_used_up(
    live: Live, http: aiohttp.ClientSession, owner: str
) -> None:
    usages: list[Any] = []
    for _ in range(3):
        done = await run(http, live, owner, name="keeper", tools=TOOLS)
        usages.append((await ask(http, live, owner, "run_get", run=done["run"]))["usage"])
    failed = await run(http, live, owner, name="short", tools=TOOLS, limits={"turns": 1})
    assert failed["error"]["code"] == "limit_exceeded"

    told = await ask(http, live, owner, "agent_stats")
    keeper, short = told["items"]
    assert (keeper["agent"], keeper["runs"]) == ("keeper", 3)
    assert keeper["statuses"] == {"completed": 3}
    assert (keeper["turns"], keeper["tool_calls"], keeper["tool_errors"]) == (6, 6, 3)
    for name in ("prompt_tokens", "completion_tokens"):
        assert keeper[name] == sum(usage[name] for usage in usages) > 0
    assert keeper["errors"] == []
    assert short["statuses"] == {"failed": 1}
    assert short["errors"] == [{"code": "limit_exceeded", "runs": 1}]
    # What a run that failed had used up counts as well.
    assert short["turns"] == 1
    assert told["total"]["runs"] == 4
    assert told["total"]["statuses"] == {"completed": 3, "failed": 1}
    for figures in (told["total"], keeper):
        took, waited = figures["seconds"], figures["queue_seconds"]
        assert 0 < took["p50"] <= took["p95"] <= took["p99"] < 60
        assert 0 <= waited["p50"] <= waited["p99"] < 60


async def test_one_agent_is_told_by_version_newest_first(
    live: Live, http: aiohttp.ClientSession, owner: str
) -> None:
    versions: list[int] = []
    for times in (2, 1):
        saved = await ask(http, live, owner, "agent_save", name="twice", instructions="")
        versions.insert(0, saved["version"])
        for _ in range(times):
            await ask(http, live, owner, "agent_run", agent="twice", input="Keep it.")
    await run(http, live, owner, name="other")
    told = await ask(http, live, owner, "agent_stats", agent="twice")
    assert [item["agent"] for item in told["items"]] == ["twice"]
    assert [item["version"] for item in told["versions"]] == versions
    assert [item["runs"] for item in told["versions"]] == [1, 2]
    assert told["total"]["runs"] == 3


async def test_a_window_or_a_tenant_without_runs_has_figures_of_none(
    live: Live, http: aiohttp.ClientSession, owner: str
) -> None:
    await run(http, live, owner, name="early")
    stranger = (await make_key(live, "read", tenant="stats-stranger"))["key"]
    for key, hours in ((owner, 1e-9), (stranger, 24)):
        told = await ask(http, live, key, "agent_stats", hours=hours)
        assert (told["items"], told["total"]["runs"]) == ([], 0)
        assert told["total"]["seconds"] == {"p50": None, "p95": None, "p99": None}


async def test_who_may_only_run_an_agent_counts_its_own_runs(
    live: Live, http: aiohttp.ClientSession, owner: str
) -> None:
    await run(http, live, owner, name="shared")
    tenant = (await live.runtime.services.keys.authenticate(owner)).tenant
    runner = (await make_key(live, "run:agent://shared", "run:tool://*", tenant=tenant))["key"]
    before = await ask(http, live, owner, "agent_stats")
    assert before["total"]["runs"] == 1
    await ask(http, live, runner, "agent_run", agent="shared", input="Keep it.")
    principal = await live.runtime.services.keys.authenticate(runner)
    own = await live.runtime.services.agent_stats.stats(principal)
    assert own["total"]["runs"] == 1
    assert (await ask(http, live, owner, "agent_stats"))["total"]["runs"] == 2
