"""Spans of runs, models and tools at an OpenTelemetry collector: one trace a run, named as the conventions for generative AI say."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.doors import raw
from tests.doors.live import Live, open_live
from tests.servers.collector import Collector, Span, collecting

SECRET = "zanzibar"
BOSS = f"""
turns:
- tool_calls:
  - {{name: kv_get, arguments: {{key: {SECRET}-1}}}}
  - {{name: agent_clerk, arguments: {{input: {SECRET}-2}}}}
- text: {SECRET}-3
"""
CLERK = f"""
turns:
- tool_calls: [{{name: kv_set, arguments: {{key: kept, value: {SECRET}-4}}}}]
- text: {SECRET}-5
"""
REFUSING = "turns: [{error: {status: 503, message: 'away, says zanzibar'}}]"
SCRIPTS = {"boss": BOSS, "clerk": CLERK, "refusing": REFUSING}
INTERNAL, CLIENT = 1, 3
CALLER = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
TRACEPARENT = f"00-{CALLER[0]}-{CALLER[1]}-01"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
async def live(
    anyio_backend: object,
    scratch: Path,
    tmp_path_factory: pytest.TempPathFactory,
    collector: Collector,
) -> AsyncIterator[Live]:
    folder = tmp_path_factory.mktemp("scripts")
    for name, script in SCRIPTS.items():
        (folder / f"{name}.yaml").write_text(script)
    upstreams = {name: {"url": f"scripted:{folder / name}.yaml"} for name in SCRIPTS}
    models = {
        f"{name}-model": {"targets": [{"upstream": name, "model": "scripted"}], "retries": 0}
        for name in SCRIPTS
    }
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        environment.setenv("OTEL_SERVICE_NAME", "isthmus-of-the-test")
        async with open_live(
            scratch / "spans", llm_url=(), upstreams=upstreams, models=models
        ) as live:
            yield live


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with raw.open_http() as http:
        yield http


async def ask(http: aiohttp.ClientSession, live: Live, tool: str, **given: Any) -> Any:
    answer = await raw.call(http, live.url, live.key, tool, given)
    assert not answer.result.get("isError"), answer.result
    return answer.result["structuredContent"]


async def save(http: aiohttp.ClientSession, live: Live, name: str, **fields: Any) -> Any:
    given = {"name": name, "instructions": SECRET, "model": f"{name}-model", **fields}
    return await ask(http, live, "agent_save", **given)


async def trace(
    collector: Collector, trace_id: str, enough: Callable[[list[Span]], bool]
) -> list[Span]:
    """Return the spans of a trace once there are enough of them."""

    def of_it(spans: list[Span]) -> list[Span]:
        return [span for span in spans if span.trace_id == trace_id]

    return of_it(await asyncio.to_thread(collector.wait, lambda spans: enough(of_it(spans))))


def ended(name: str) -> Callable[[list[Span]], bool]:
    return lambda spans: any(span.name == f"invoke_agent {name}" for span in spans)


async def test_a_run_with_a_sub_agent_and_a_failing_tool_is_one_tree_of_spans(
    live: Live, http: aiohttp.ClientSession, collector: Collector
) -> None:
    await save(http, live, "clerk", tools=["kv_set"])
    saved = await save(http, live, "boss", tools=["kv_get"], agents=["clerk"])
    done = await ask(http, live, "agent_run", agent="boss", input=SECRET)
    assert done["status"] == "completed", done
    spans = await trace(collector, done["run"].removeprefix("run_"), lambda spans: len(spans) >= 9)

    assert len({span.span_id for span in spans}) == len(spans)
    assert Counter(span.name for span in spans) == {
        "invoke_agent boss": 1,
        "invoke_agent clerk": 1,
        "chat boss-model": 2,
        "chat clerk-model": 2,
        "execute_tool kv_get": 1,
        "execute_tool kv_set": 1,
        "execute_tool agent_clerk": 1,
    }
    one = {span.name: span for span in spans}
    boss, clerk = one["invoke_agent boss"], one["invoke_agent clerk"]
    asked = one["execute_tool agent_clerk"]
    above = {span.span_id: span.name for span in spans} | {"": None}
    assert {span.name: above[span.parent_id] for span in spans} == {
        "invoke_agent boss": None,
        "chat boss-model": "invoke_agent boss",
        "execute_tool kv_get": "invoke_agent boss",
        "execute_tool agent_clerk": "invoke_agent boss",
        "invoke_agent clerk": "execute_tool agent_clerk",
        "chat clerk-model": "invoke_agent clerk",
        "execute_tool kv_set": "invoke_agent clerk",
    }
    assert all(span.started <= span.ended for span in spans)
    assert asked.started <= clerk.started
    assert boss.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert boss.attributes["gen_ai.agent.name"] == "boss"
    assert boss.attributes["gen_ai.agent.version"] == str(saved["version"])
    assert boss.attributes["isthmus.run.id"] == done["run"]
    assert boss.attributes["isthmus.run.status"] == "completed"
    assert not boss.failed
    assert boss.resource["service.name"] == "isthmus-of-the-test"
    chats = [span for span in spans if span.name == "chat boss-model"]
    told = sorted(span.attributes["gen_ai.response.finish_reasons"] for span in chats)
    assert told == [["stop"], ["tool_calls"]]
    for chat in chats:
        assert chat.attributes["gen_ai.operation.name"] == "chat"
        assert chat.attributes["gen_ai.provider.name"] == "scripted"
        assert chat.attributes["gen_ai.request.model"] == "boss-model"
        assert chat.attributes["gen_ai.response.model"] == "scripted"
        assert chat.attributes["gen_ai.usage.output_tokens"] > 0
    usage = [span.attributes["gen_ai.usage.input_tokens"] for span in spans if "chat" in span.name]
    assert boss.attributes["gen_ai.usage.input_tokens"] == sum(usage)
    failing = one["execute_tool kv_get"]
    assert failing.failed
    assert failing.attributes["error.type"] == "not_found"
    assert failing.attributes["gen_ai.tool.name"] == "kv_get"
    assert failing.attributes["gen_ai.tool.call.id"]
    assert not one["execute_tool kv_set"].failed
    assert not [span.name for span in spans if SECRET.encode() in span.raw]

    for run in (done["run"], clerk.attributes["isthmus.run.id"]):
        told = await ask(http, live, "run_trace", run=run)
        assert told["trace_id"] == boss.trace_id


@pytest.mark.parametrize("where", ["header", "meta"])
async def test_a_run_links_to_the_span_of_whoever_began_it(
    live: Live, http: aiohttp.ClientSession, collector: Collector, where: str
) -> None:
    await save(http, live, "clerk", tools=["kv_set"])
    params: dict[str, Any] = {"name": "agent_run", "arguments": {"agent": "clerk", "input": "hi"}}
    headers = raw.modern_headers(live.key, "tools/call", params)
    if where == "header":
        headers["traceparent"] = TRACEPARENT
    else:
        params["_meta"] = {"traceparent": TRACEPARENT}
    body = json.dumps(raw.modern_request("tools/call", params))
    answer = await raw.send(http, "POST", f"{live.url}/mcp", data=body, headers=headers)
    run = answer.result["structuredContent"]["run"]
    spans = await trace(collector, run.removeprefix("run_"), ended("clerk"))
    (root,) = (span for span in spans if span.name == "invoke_agent clerk")
    assert (root.parent_id, root.links) == ("", [CALLER])
    assert not any(span.links for span in spans if span is not root)


async def test_a_run_that_is_cancelled_while_it_waits_has_its_span_and_so_has_what_it_began(
    live: Live, http: aiohttp.ClientSession, collector: Collector
) -> None:
    await save(http, live, "clerk", tools=["kv_set"], approve=["kv_set"])
    await save(http, live, "boss", tools=["kv_get"], agents=["clerk"])
    begun = await ask(http, live, "agent_run", agent="boss", input=SECRET)
    assert begun["status"] == "input_required"
    await ask(http, live, "run_cancel", run=begun["run"])
    both = {"invoke_agent boss", "invoke_agent clerk"}
    spans = await trace(
        collector,
        begun["run"].removeprefix("run_"),
        lambda spans: both <= {span.name for span in spans},
    )
    for root in (span for span in spans if span.name in both):
        assert root.attributes["isthmus.run.status"] == "cancelled"
        assert not root.failed
    assert len({span.span_id for span in spans}) == len(spans)


async def test_a_plain_chat_is_a_span_below_its_callers_and_a_failing_model_an_error(
    live: Live, http: aiohttp.ClientSession, collector: Collector
) -> None:
    caller = ("11f7651916cd43dd8448eb211c80319c", "11ad6b7169203331")
    headers = {**raw.bearer(live.key), "traceparent": f"00-{caller[0]}-{caller[1]}-01"}
    for model, status in (("clerk-model", 200), ("refusing-model", 503)):
        said = {"model": model, "messages": [{"role": "user", "content": SECRET}]}
        async with http.post(
            f"{live.url}/v1/chat/completions", json=said, headers=headers
        ) as answer:
            assert answer.status == status, await answer.text()
    spans = await trace(collector, caller[0], lambda spans: len(spans) == 2)
    well, failed = sorted(spans, key=lambda span: span.failed)
    assert (well.name, failed.name) == ("chat clerk-model", "chat refusing-model")
    assert {well.parent_id, failed.parent_id} == {caller[1]}
    assert failed.failed
    assert failed.attributes["error.type"] == "unavailable"
    assert not [span.name for span in spans if SECRET.encode() in span.raw]
