"""/metrics: what it tells, in whose form, and to whom."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.doors import raw
from tests.doors.fixtures import PLUGIN, make_key
from tests.doors.grid import ROLES
from tests.doors.live import Live, open_live

ROOT = Path(__file__).parents[2]
Labels = dict[str, str]
Samples = dict[str, list[tuple[Labels, float]]]


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with open_live(scratch / "metrics", plugins=(PLUGIN,), llm_url=("scripted:",)) as live:
        yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


async def get(
    http: aiohttp.ClientSession, live: Live, headers: dict[str, str] | None = None
) -> raw.Reply:
    return await raw.send(http, "GET", f"{live.url}/metrics", headers=headers)


async def scrape(http: aiohttp.ClientSession, live: Live) -> Samples:
    answer = await get(http, live)
    assert answer.status == 200, answer
    found: Samples = {}
    for family in text_string_to_metric_families(answer.body):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return sum(found for given, found in samples.get(name, []) if given.items() >= labels.items())


async def becomes(
    http: aiohttp.ClientSession, live: Live, holds: Callable[[Samples], bool]
) -> Samples:
    """Scrape until a condition holds: the figures of the queue are those of the last second."""
    async with asyncio.timeout(15):
        while not holds(samples := await scrape(http, live)):
            await asyncio.sleep(0.2)
    return samples


# --- what it tells -----------------------------------------------------------------------------


async def test_operations_are_counted_by_verb_and_outcome(
    live: Live, http: aiohttp.ClientSession
) -> None:
    before = await scrape(http, live)
    key = (await make_key(live, "read", tenant="counted"))["key"]
    for number in range(3):
        await raw.call(http, live.url, live.key, "kv_set", {"key": f"m{number}", "value": 1})
    await raw.call(http, live.url, key, "kv_set", {"key": "m", "value": 1})
    await raw.call(http, live.url, live.key, "kv_get", {"key": "nothing"})
    after = await scrape(http, live)

    def more(verb: str, outcome: str) -> float:
        name, labels = "isthmus_operations_total", {"verb": verb, "outcome": outcome}
        return value(after, name, **labels) - value(before, name, **labels)

    assert more("write", "ok") >= 3
    assert more("write", "forbidden") >= 1
    assert more("read", "not_found") >= 1


async def test_requests_are_counted_by_door_and_status(
    live: Live, http: aiohttp.ClientSession
) -> None:
    before = await scrape(http, live)
    expected = {
        ("mcp", "200"): ("POST", "/mcp", live.headers),
        ("mcp", "401"): ("POST", "/mcp", {}),
        ("openai", "200"): ("GET", "/v1/models", live.headers),
        ("openai", "404"): ("GET", "/v1/none", live.headers),
        ("plain", "405"): ("DELETE", "/healthz", {}),
        ("none", "404"): ("GET", "/nowhere", {}),
        ("none", "421"): ("GET", "/healthz", {"Host": "elsewhere.example"}),
    }
    for (_, status), (method, path, headers) in expected.items():
        body: Any = raw.initialize() if method == "POST" else None
        answer = await raw.send(
            http, method, live.url + path, headers={"Accept": raw.BOTH, **headers}, json=body
        )
        assert answer.status == int(status), (path, answer)
    after = await scrape(http, live)
    name = "isthmus_http_requests_total"
    for door, status in expected:
        labels = {"door": door, "status": status}
        assert value(after, name, **labels) - value(before, name, **labels) == 1, labels


async def test_runs_are_counted_and_timed_by_kind(live: Live, http: aiohttp.ClientSession) -> None:
    saved = {"name": "counted", "instructions": "Answer."}
    await raw.call(http, live.url, live.key, "agent_save", saved)
    before = await scrape(http, live)
    for _ in range(3):
        ran = {"agent": "counted", "input": "Hello.", "wait_seconds": 30}
        answer = await raw.call(http, live.url, live.key, "agent_run", ran)
        assert answer.result["structuredContent"]["status"] == "completed", answer
    after = await scrape(http, live)

    def more(name: str, **labels: str) -> float:
        return value(after, name, kind="agent", **labels) - value(
            before, name, kind="agent", **labels
        )

    assert more("isthmus_runs_ended_total", status="completed") == 3
    assert more("isthmus_run_duration_seconds_count") == 3
    assert more("isthmus_run_queue_seconds_count") == 3
    assert 0 < more("isthmus_run_duration_seconds_sum") < 30
    assert more("isthmus_run_queue_seconds_bucket", le="+Inf") == 3
    # Each run asked the model once, and had no tool to call.
    name = "isthmus_agent_turns_total"
    assert value(after, name) - value(before, name) == 3
    assert value(after, "isthmus_agent_tool_calls_total") == 0
    name = "isthmus_agent_turn_seconds"
    asked = {"model": "default"}
    assert value(after, f"{name}_count", **asked) - value(before, f"{name}_count", **asked) == 3
    assert value(after, f"{name}_sum", **asked) > value(before, f"{name}_sum", **asked)
    # The worker of this process lives, and has room.
    after = await becomes(http, live, lambda told: value(told, "isthmus_run_leases") == 1)
    assert 0 < value(after, "isthmus_run_lease_seconds_left") <= 10
    assert value(after, "isthmus_run_slots") == live.runtime.settings.run_concurrency


async def test_the_queue_shows_what_no_worker_takes(
    live: Live, http: aiohttp.ClientSession
) -> None:
    from mcp_server.runs.record import Run, new_run_id

    run = Run(
        id=new_run_id(),
        tenant="default",
        subject="owner",
        key_id=None,
        grant=frozenset({"run"}),
        kind="tool/unknown",
        input={},
    )
    await live.runtime.stores.queue.create(run)
    labels = {"kind": "tool/unknown"}
    await becomes(http, live, lambda found: value(found, "isthmus_runs_queued", **labels) == 1)
    await becomes(
        http, live, lambda found: value(found, "isthmus_runs_oldest_due_seconds", **labels) > 0.5
    )
    await live.runtime.stores.queue.request_cancel("default", run.id)
    await becomes(http, live, lambda found: value(found, "isthmus_runs_queued", **labels) == 0)


async def test_each_engine_is_up_or_not(
    live: Live, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = await scrape(http, live)
    engines = {labels["engine"]: up for labels, up in samples["isthmus_engine_up"]}
    assert set(engines) == set(live.runtime.engines.checks)
    assert set(engines.values()) == {1.0}

    async def broken() -> str:
        raise ConnectionError("gone")

    name = next(iter(engines))
    monkeypatch.setitem(live.runtime.engines.checks, name, broken)
    await becomes(http, live, lambda found: value(found, "isthmus_engine_up", engine=name) == 0)


async def test_no_label_names_anybody(live: Live, http: aiohttp.ClientSession) -> None:
    key = await make_key(live, tenant="secret-tenant", user="secret-user")
    await raw.call(http, live.url, key["key"], "kv_set", {"key": "secret-key", "value": 1})
    await raw.send(
        http, "GET", f"{live.url}/v1/models/secret-model", headers=raw.bearer(key["key"])
    )
    await raw.send(http, "GET", f"{live.url}/secret-path")
    samples = await scrape(http, live)
    allowed = {"verb", "outcome", "door", "status", "kind", "engine", "le", "model", "upstream"}
    for found in samples.values():
        for labels, _ in found:
            assert set(labels) <= allowed
    answer = await get(http, live)
    assert "secret" not in answer.body
    assert key["id"] not in answer.body


async def test_it_answers_in_the_format_that_is_asked_for(
    live: Live, http: aiohttp.ClientSession
) -> None:
    plain = await get(http, live)
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    modern = await get(http, live, {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert modern.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in openmetrics.text_string_to_metric_families(modern.body)}
    assert "isthmus_operations" in names
    assert "_created" not in plain.body + modern.body


async def test_the_documented_metrics_are_those_that_are_told(
    live: Live, http: aiohttp.ClientSession
) -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = {
        (name, kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(
            r"^\| `(isthmus_\w+)` \| (\w+) \| ([^|]*) \|", text, re.MULTILINE
        )
    }
    told: set[tuple[str, str, frozenset[str]]] = set()
    answer = await get(http, live)
    for family in text_string_to_metric_families(answer.body):
        if family.name.startswith("isthmus_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            told.add((name, family.type, frozenset(labels)))
    assert {(name, kind) for name, kind, _ in told} == {
        (name, kind) for name, kind, _ in documented
    }
    for name, kind, labels in told:  # a family without a sample shows no labels
        assert not labels or (name, kind, labels) in documented


# --- to whom -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        {"X-Forwarded-For": "203.0.113.7"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"x-forwarded-host": "isthmus.example"},
        {"Forwarded": "for=203.0.113.7"},
        {"Via": "1.1 proxy"},
        {"X-Real-IP": "127.0.0.1"},
        {"Host": "10.0.0.5"},
        {"Authorization": "Bearer sk-isth-wrong"},
        {"Authorization": "Basic x"},
    ],
    ids=str,
)
async def test_what_a_proxy_passes_on_needs_a_key(
    live: Live, http: aiohttp.ClientSession, header: dict[str, str]
) -> None:
    refused = await get(http, live, header)
    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    if "Authorization" not in header:
        assert (await get(http, live, {**header, **live.headers})).status == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8321", "[::ffff:127.0.0.1]"])
async def test_this_machine_needs_none(live: Live, http: aiohttp.ClientSession, host: str) -> None:
    assert (await get(http, live, {"Host": host})).status == 200


@pytest.mark.parametrize("role", ROLES)
async def test_a_key_must_administer_the_server(
    live: Live, http: aiohttp.ClientSession, role: str
) -> None:
    for tenant in ("default", "foreign"):
        key = (await make_key(live, *ROLES[role], tenant=tenant))["key"]
        answer = await get(http, live, raw.bearer(key))
        allowed = tenant == "default" and "admin" in ROLES[role]
        assert answer.status == (200 if allowed else 403), (role, tenant, answer)


async def test_a_key_for_nothing_else_is_enough(live: Live, http: aiohttp.ClientSession) -> None:
    key = (await make_key(live, "admin:metrics://server"))["key"]
    assert (await get(http, live, raw.bearer(key))).status == 200
    listed = await raw.call(http, live.url, key, "kv_list", {})
    assert listed.result["isError"]


async def test_behind_a_public_url_everybody_needs_a_key(
    anyio_backend: object, scratch: Path, http: aiohttp.ClientSession
) -> None:
    settings: dict[str, Any] = {"public_url": "https://isthmus.example"}
    async with open_live(scratch / "metrics", llm_url=("scripted:",), **settings) as live:
        assert (await get(http, live)).status == 401
        assert (await get(http, live, live.headers)).status == 200


async def test_two_applications_count_for_themselves(
    anyio_backend: object, scratch: Path, live: Live, http: aiohttp.ClientSession
) -> None:
    async with open_live(scratch / "metrics-2", llm_url=("scripted:",)) as other:
        name, labels = "isthmus_http_requests_total", {"door": "mcp", "status": "200"}
        before = value(await scrape(http, live), name, **labels)
        await raw.call(http, other.url, other.key, "kv_list", {})
        assert value(await scrape(http, other), name, **labels) == 1
        assert value(await scrape(http, live), name, **labels) == before
