"""Models of the operator's making at the doors: who answered, answers kept for repetition, and what it cost whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from mcp_server.services.model_usage import UsageItem, read_usage
from tests.contract.llm_upstream import Exchange, Upstream, chunk, serving
from tests.doors.live import Live, http_client, open_door, open_live
from tests.e2e.belongings import isthmus

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
CALL = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
}


async def answering(exchange: Exchange) -> None:
    """Count tokens in each answer; call a tool if there is one; break nothing."""
    if exchange.line.startswith("GET"):
        await exchange.send_json(200, {"object": "list", "data": [{"id": "m"}]})
        return
    asked = exchange.body
    if "/embeddings" in exchange.line:
        items = [
            {"object": "embedding", "index": at, "embedding": [float(len(each)), 0.5]}
            for at, each in enumerate(asked["input"])
        ]
        await exchange.send_json(
            200,
            {
                "object": "list",
                "data": items,
                "model": "m",
                "usage": {"prompt_tokens": 4, "total_tokens": 4},
            },
        )
        return
    if asked["messages"][-1]["content"] == "wait":
        await exchange.send(HEAD)
        await exchange.send_events(chunk("one"), chunk("two"))
        await exchange.gone.wait()
        return
    if not asked.get("stream"):
        message = {"role": "assistant", "content": "hello", "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        whole = {"id": "up-1", "object": "chat.completion", "created": 1, "model": "m"}
        await exchange.send_json(200, {**whole, "choices": [choice], "usage": USAGE})
        return
    words = [chunk("hel"), chunk("lo"), chunk(finish="stop")]
    words[0]["choices"][0]["delta"]["role"] = "assistant"
    if asked.get("tools"):
        words[0]["choices"][0]["delta"] = {
            "role": "assistant",
            "content": None,
            "tool_calls": [CALL],
        }
        words[1:] = [chunk(finish="tool_calls")]
    events: list[object] = [*words]
    if asked["stream_options"]["include_usage"]:
        events.append({**chunk(), "choices": [], "usage": USAGE})
    await exchange.send(HEAD)
    await exchange.send_events(*events, "[DONE]")
    exchange.writer.close()


async def refusing(exchange: Exchange) -> None:
    await exchange.send_json(500, {"error": {"message": "on fire"}})


MODELS = {
    "fast": {
        "targets": [{"upstream": "bad", "model": "b"}, {"upstream": "good", "model": "m", "weight": 0}],
        "retries": 0,
    },
    "team/kept": {"targets": [{"upstream": "good", "model": "m"}], "cache_seconds": 600},
}  # fmt: skip


@pytest.fixture(scope="module")
async def good(anyio_backend: object) -> AsyncIterator[Upstream]:
    async with serving(answering) as upstream:
        yield upstream


@pytest.fixture(scope="module")
async def live(good: Upstream, scratch: Path) -> AsyncIterator[Live]:
    async with serving(refusing) as bad:
        upstreams = {
            "good": {"url": good.url, "models": ["m", "text-embedding-m"]},
            "bad": {"url": bad.url, "models": ["b"]},
        }
        async with open_live(
            scratch / "router",
            llm_url=(),
            llm_model="m",
            upstreams=upstreams,
            models=MODELS,
        ) as live:
            yield live


@pytest.fixture
async def http(live: Live) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(live.headers) as client:
        yield client


@pytest.fixture
async def client(live: Live, http: httpx2.AsyncClient) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0) as client:
        yield client


def messages(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


async def counted(
    live: Live, model: str, key: str | None, enough: Callable[[UsageItem], bool]
) -> UsageItem:
    """Wait until what was counted for a key and a model is enough."""
    async with asyncio.timeout(30):
        while True:
            for item in await read_usage(live.runtime.engines.control):
                if item["model"] == model and item["key"] == key and enough(item):
                    return item
            await asyncio.sleep(0.05)


async def make_key(live: Live, name: str, tenant: str = "default") -> tuple[str, AsyncOpenAI]:
    made = await live.runtime.services.keys.create(name, tenant=tenant)
    client = AsyncOpenAI(base_url=f"{live.url}/v1", api_key=made["key"], max_retries=0)
    return made["id"], client


async def test_the_answer_says_who_gave_it_and_has_the_name_that_was_asked(
    client: AsyncOpenAI,
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="fast", messages=messages("x")
    )
    assert raw.headers["x-isthmus-upstream"] == "good"
    assert "x-isthmus-cache" not in raw.headers
    answer = raw.parse()
    assert (answer.model, answer.choices[0].message.content) == ("fast", "hello")


async def test_a_plain_model_leaves_no_trail(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="m", messages=messages("x"))
    assert not [name for name in raw.headers if name.startswith("x-isthmus")]


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_gets_the_same_answer_under_a_new_id(
    client: AsyncOpenAI, good: Upstream, stream: bool, tools: bool
) -> None:
    more: dict[str, Any] = {"stream": stream}
    if tools:
        more["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]

    async def ask(**other: Any) -> tuple[str, Any]:
        text = messages(f"keep {stream} {tools}")
        given: dict[str, Any] = {"model": "team/kept", "messages": text, **more, **other}
        raw = await client.chat.completions.with_raw_response.create(**given)
        answer = raw.parse()
        if not stream:
            return raw.headers["x-isthmus-cache"], answer.to_dict()
        return raw.headers["x-isthmus-cache"], [each.to_dict() async for each in answer]

    before = len(good.exchanges)
    how, first = await ask(user="a")
    again, second = await ask(user="b")
    assert (how, again, len(good.exchanges) - before) == ("miss", "hit", 1)
    plain = [_without_id(each) for each in (first if stream else [first])]
    assert [_without_id(each) for each in (second if stream else [second])] == plain
    ids = {each["id"] for each in (second if stream else [second])}
    assert len(ids) == 1
    assert ids.isdisjoint(each["id"] for each in (first if stream else [first]))
    assert (await ask(temperature=0.5))[0] == "miss"


def _without_id(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in ("id", "created")}


async def test_kept_answers_are_a_tenants_own(live: Live) -> None:
    heard: list[str] = []
    for tenant in ("keeps-a", "keeps-b", "keeps-a"):
        _, client = await make_key(live, f"of-{tenant}", tenant)
        async with client:
            raw = await client.chat.completions.with_raw_response.create(
                model="team/kept", messages=messages("for one tenant")
            )
        heard.append(raw.headers["x-isthmus-cache"])
    assert heard == ["miss", "miss", "hit"]


async def test_tokens_count_for_the_key_also_of_streams_that_did_not_ask(live: Live) -> None:
    key, client = await make_key(live, "spender")
    async with client:
        await client.chat.completions.create(model="m", messages=messages("x"))
        stream = await client.chat.completions.create(
            model="m", messages=messages("x"), stream=True
        )
        told = [each async for each in stream]
        assert all(each.usage is None and each.choices for each in told)
        shown = await client.chat.completions.create(
            model="m", messages=messages("x"), stream=True, stream_options={"include_usage": True}
        )
        assert [each async for each in shown][-1].usage is not None
        await client.embeddings.create(model="text-embedding-m", input=["one", "three"])
    chats = await counted(live, "m", key, lambda item: item["requests"] == 3)
    assert (chats["prompt_tokens"], chats["completion_tokens"], chats["estimated"]) == (21, 9, 0)
    assert (chats["tenant"], chats["name"], chats["failed"]) == ("default", "spender", 0)
    vectors = await counted(live, "text-embedding-m", key, lambda item: item["requests"] == 1)
    assert (vectors["prompt_tokens"], vectors["completion_tokens"]) == (4, 0)


async def test_an_answer_that_its_client_left_is_estimated_and_freed(
    live: Live, good: Upstream
) -> None:
    key, client = await make_key(live, "leaver")
    async with client:
        stream = await client.chat.completions.create(
            model="m", messages=messages("wait"), stream=True
        )
        await anext(stream)
        await anext(stream)
        await stream.close()
        async with asyncio.timeout(30):
            await good.exchanges[-1].gone.wait()
    item = await counted(live, "m", key, lambda item: item["requests"] == 1)
    assert (item["completion_tokens"], item["prompt_tokens"], item["estimated"]) == (2, 1, 1)


async def test_hits_and_failures_are_counted_as_such(live: Live) -> None:
    key, client = await make_key(live, "repeater")
    async with client:
        for _ in range(2):
            await client.chat.completions.create(model="team/kept", messages=messages("repeat"))
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="b", messages=messages("x"))
    kept = await counted(live, "team/kept", key, lambda item: item["requests"] == 2)
    assert (kept["cached"], kept["prompt_tokens"]) == (1, 7)
    failed = await counted(live, "b", key, lambda item: item["requests"] == 1)
    assert (failed["failed"], failed["prompt_tokens"]) == (1, 0)


async def test_an_agents_turns_count_for_whoever_started_it(live: Live) -> None:
    key, client = await make_key(live, "starter")
    async with open_door(live, "bus") as door:
        await door.call("agent_save", {"name": "counted", "instructions": "Answer.", "model": "m"})
    async with client:
        await client.chat.completions.create(model="agent/counted", messages=messages("x"))
    item = await counted(live, "m", key, lambda item: item["requests"] == 1)
    assert (item["prompt_tokens"], item["completion_tokens"]) == (7, 3)


async def test_the_command_shows_what_was_counted(live: Live) -> None:
    key, client = await make_key(live, "shown")
    async with client:
        await client.chat.completions.create(model="m", messages=messages("x"))
    await counted(live, "m", key, lambda item: item["requests"] == 1)
    data_dir = live.runtime.settings.data_dir
    arguments = ("keys", "usage", "--days", "1", "--key", key, "--json")
    shown = await asyncio.to_thread(isthmus, data_dir, *arguments)
    assert shown.returncode == 0, shown.stderr
    (item,) = json.loads(shown.stdout)
    assert (item["name"], item["model"], item["prompt_tokens"]) == ("shown", "m", 7)


async def test_an_mcp_client_sees_targets_and_circuits(live: Live) -> None:
    async with open_door(live, "http-modern") as door:
        listed = await door.call("model_list", {})
        read = await door.read("model://team/kept")
    assert listed.structured is not None
    items = {item["id"]: item for item in listed.structured["items"]}
    assert [each["upstream"] for each in items["fast"]["targets"]] == ["bad", "good"]
    assert items["m"]["default"]
    assert items["m"]["targets"] == []
    shown = json.loads(read.text)
    assert shown == items["team/kept"]
    assert shown["targets"] == [
        {"upstream": "good", "model": "m", "weight": 1.0, "healthy": True, "circuit": "closed"}
    ]


async def test_the_list_of_models_has_those_of_the_operators_making(client: AsyncOpenAI) -> None:
    ids = [each.id async for each in client.models.list()]
    assert {"fast", "team/kept", "m", "b"} <= set(ids)
    assert (await client.models.retrieve("team/kept")).id == "team/kept"


async def test_metrics_tell_of_models_and_upstreams(
    live: Live, http: httpx2.AsyncClient, client: AsyncOpenAI
) -> None:
    await client.chat.completions.create(model="m", messages=messages("x"))
    text = (await http.get(f"{live.url}/metrics")).text
    assert 'isthmus_model_requests_total{model="m",outcome="ok"}' in text
    assert 'isthmus_model_tokens_total{kind="prompt",model="m"}' in text
    assert 'isthmus_upstream_up{upstream="good"} 1.0' in text
