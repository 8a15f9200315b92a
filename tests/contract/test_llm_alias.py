"""Models made of several upstreams: weights, retries, fallbacks, circuits, queues and times, on real servers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from mcp_server.errors import ConfigurationError, NotFound, Timeout, Unavailable
from mcp_server.llm import Chunk, Model, UpstreamError
from mcp_server.llm.breaker import FAILURES, Breaker, RetryBudget
from mcp_server.llm.opening import open_router
from mcp_server.llm.router import Router
from mcp_server.settings_models import ModelSetting, UpstreamSetting
from tests.contract.llm_upstream import (
    EVENT_STREAM,
    Answer,
    Exchange,
    Upstream,
    chunk,
    data,
    serving,
)

MESSAGES = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True)
class Settings:
    upstreams: dict[str, UpstreamSetting]
    models: dict[str, ModelSetting] = field(default_factory=dict)
    llm_url: tuple[str, ...] = ()
    llm_model: str | None = None
    llm_api_key: str | None = None
    port: int = 8321


def completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def saying(text: str) -> Answer:
    async def answer(exchange: Exchange) -> None:
        if exchange.line.startswith("GET"):
            await exchange.send_json(200, {"object": "list", "data": [{"id": "m"}]})
        elif "/embeddings" in exchange.line:
            item = {"object": "embedding", "index": 0, "embedding": [1.0, 2.0]}
            await exchange.send_json(200, {"object": "list", "data": [item], "model": text})
        elif exchange.body.get("stream"):
            await exchange.send(EVENT_STREAM)
            await exchange.send_events(chunk(text), chunk(finish="stop"), "[DONE]")
            exchange.writer.close()
        else:
            await exchange.send_json(200, completion(text))

    return answer


def refusing(status: int, headers: str = "", **error: Any) -> Answer:
    async def answer(exchange: Exchange) -> None:
        await exchange.send_json(status, {"error": {"message": "no", **error}}, headers)

    return answer


async def hanging(exchange: Exchange) -> None:
    await exchange.gone.wait()


@dataclass
class World:
    router: Router
    servers: dict[str, Upstream]

    def asked(self) -> dict[str, int]:
        return {name: len(server.exchanges) for name, server in self.servers.items()}


@asynccontextmanager
async def world(
    answers: dict[str, Answer], models: dict[str, Any], **terms: dict[str, Any]
) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(serving(answer))
            for name, answer in answers.items()
        }
        upstreams = {
            name: UpstreamSetting(url=server.url, models=("m",), **terms.get(name, {}))
            for name, server in servers.items()
        }
        made = {name: ModelSetting.model_validate(setting) for name, setting in models.items()}
        router = await stack.enter_async_context(open_router(Settings(upstreams, made)))
        yield World(router, servers)


def targets(*names: str, **weights: float) -> list[dict[str, Any]]:
    weighted = [(name, 1.0) for name in names] + list(weights.items())
    return [{"upstream": name, "model": "m", "weight": weight} for name, weight in weighted]


async def ask(router: Router, name: str, stream: bool = False, **more: Any) -> str:
    model, known_as = await router.resolve(name)
    request = {"model": known_as, "messages": MESSAGES, **more}
    if not stream:
        return (await model.complete(request))["choices"][0]["message"]["content"]
    return said(await collected(model, request))


async def collected(model: Model, request: dict[str, Any]) -> list[Chunk]:
    async with aclosing(model.stream(request)) as chunks:
        return [each async for each in chunks]


def said(chunks: list[Chunk]) -> str:
    deltas = [choice["delta"] for each in chunks for choice in each["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_requests_are_spread_by_weight_and_a_target_without_weight_stands_by() -> None:
    models = {"fast": {"targets": targets(a=3, b=1, c=0)}}
    async with world({name: saying(name) for name in "abc"}, models) as made:
        heard = Counter([await ask(made.router, "fast") for _ in range(400)])
    assert set(heard) == {"a", "b"}
    assert 240 < heard["a"] < 360  # 300 are expected, with a standard deviation of 9


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "answer",
    [refusing(500), refusing(503), refusing(429), refusing(401), refusing(404)],
    ids=["500", "503", "429", "401", "404"],
)
async def test_another_target_answers_what_one_did_not(answer: Answer, stream: bool) -> None:
    models = {"fast": {"targets": targets(bad=1, good=0), "retries": 0}}
    async with world({"bad": answer, "good": saying("good")}, models) as made:
        assert await ask(made.router, "fast", stream) == "good"
        assert made.asked() == {"bad": 1, "good": 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_nobody_listens_and_another_target_answers(stream: bool) -> None:
    async with serving(hanging) as gone:
        pass
    models = {"fast": ModelSetting.model_validate({"targets": targets(dead=1, good=0)})}
    async with serving(saying("good")) as good:
        upstreams = {
            "dead": UpstreamSetting(url=gone.url, models=("m",)),
            "good": UpstreamSetting(url=good.url, models=("m",)),
        }
        async with open_router(Settings(upstreams, models)) as router:
            assert await ask(router, "fast", stream) == "good"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_does_not_fit_is_asked_of_nobody_else(stream: bool) -> None:
    models = {
        "fast": {"targets": targets(a=1, b=0), "fallbacks": ["plain"]},
        "plain": {"targets": targets("b")},
    }
    async with world({"a": refusing(400, code="invalid_value"), "b": saying("b")}, models) as made:
        with pytest.raises(UpstreamError) as refused:
            await ask(made.router, "fast", stream)
        assert (refused.value.status, made.asked()) == (400, {"a": 1, "b": 0})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_target_is_asked_again_within_the_retries(stream: bool) -> None:
    answers = [refusing(503, "retry-after-ms: 1\r\n"), refusing(500), saying("at last")]

    async def failing_twice(exchange: Exchange) -> None:
        await answers.pop(0)(exchange)

    models = {"fast": {"targets": targets("a"), "retries": 2}}
    async with world({"a": failing_twice}, models) as made:
        assert await ask(made.router, "fast", stream) == "at last"


async def test_retries_end_and_the_last_refusal_is_told() -> None:
    models = {"fast": {"targets": targets("a"), "retries": 2}}
    async with world({"a": refusing(500)}, models) as made:
        with pytest.raises(UpstreamError, match="no") as refused:
            await ask(made.router, "fast")
        assert (refused.value.status, made.asked()) == (500, {"a": 3})


async def test_the_budget_bounds_what_is_asked_again() -> None:
    models = {"fast": {"targets": targets("a"), "retries": 10}}
    async with world({"a": refusing(500, "retry-after-ms: 1\r\n")}, models) as made:
        model, _ = await made.router.resolve("fast")
        for _ in range(RetryBudget.MOST.__int__()):
            model._budget.spend()  # type: ignore[attr-defined]
        with pytest.raises(UpstreamError):
            await ask(made.router, "fast")
        assert made.asked() == {"a": 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_fallbacks_answer_when_no_target_does(stream: bool) -> None:
    models = {
        "fast": {"targets": targets("a"), "retries": 0, "fallbacks": ["nowhere", "spare"]},
        "spare": {"targets": targets("b"), "retries": 0},
    }
    async with world({"a": refusing(500), "b": saying("b")}, models) as made:
        assert await ask(made.router, "fast", stream) == "b"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_too_long_goes_to_a_model_with_more_room(stream: bool) -> None:
    models = {
        "fast": {
            "targets": targets(a=1, c=0),
            "fallbacks": ["c-only"],
            "context_fallbacks": ["long"],
        },
        "long": {"targets": targets("b")},
        "c-only": {"targets": targets("c")},
    }
    overflow = refusing(400, code="context_length_exceeded")
    async with world({"a": overflow, "b": saying("b"), "c": saying("c")}, models) as made:
        assert await ask(made.router, "fast", stream) == "b"
        assert made.asked() == {"a": 1, "b": 1, "c": 0}


async def test_nothing_is_asked_again_once_a_word_was_heard() -> None:
    async def breaking_off(exchange: Exchange) -> None:
        await exchange.send(EVENT_STREAM + data(chunk("half a ")))
        exchange.writer.close()

    models = {
        "fast": {"targets": targets(a=1, b=0), "retries": 3, "fallbacks": ["plain"]},
        "plain": {"targets": targets("b")},
    }
    async with world({"a": breaking_off, "b": saying("b")}, models) as made:
        model, known_as = await made.router.resolve("fast")
        heard: list[Chunk] = []

        async def listen() -> None:
            async with aclosing(model.stream({"model": known_as, "messages": MESSAGES})) as chunks:
                async for each in chunks:
                    heard.append(each)  # noqa: PERF401  it breaks off in the middle

        with pytest.raises(Unavailable, match="broke off"):
            await listen()
        assert said(heard) == "half a "
        assert made.asked() == {"a": 1, "b": 0}


async def test_a_circuit_opens_and_a_trial_closes_it() -> None:
    now = 0.0
    breaker = Breaker(clock=lambda: now)
    for _ in range(FAILURES):
        assert breaker.admit()
        breaker.failed()
    assert (breaker.state, breaker.admit()) == ("open", False)
    now += 3
    assert breaker.state == "half_open"
    assert (breaker.admit(), breaker.admit()) == (True, False)  # one trial at a time
    breaker.failed()
    assert breaker.state == "open"
    now += 3  # the pause has doubled
    assert breaker.state == "open"
    now += 3
    assert breaker.admit()
    breaker.undecided()  # its client left
    assert breaker.admit()
    breaker.succeeded()
    assert breaker.state == "closed"


async def test_an_upstream_that_keeps_failing_is_left_alone_and_shown_as_ill() -> None:
    async with world({"a": refusing(503)}, {}) as made:
        for _ in range(FAILURES):
            with pytest.raises(UpstreamError, match="no"):
                await ask(made.router, "m")
        with pytest.raises(UpstreamError, match="keeps failing") as refused:
            await ask(made.router, "m")
        assert refused.value.retry_after
        assert made.asked() == {"a": FAILURES}
        (info,) = await made.router.models()
        assert (info.id, info.healthy) == ("m", False)


async def test_refusals_of_requests_open_no_circuit() -> None:
    async with world({"a": refusing(400)}, {}) as made:
        for _ in range(2 * FAILURES):
            with pytest.raises(UpstreamError, match="no"):
                await ask(made.router, "m")
        assert made.asked() == {"a": 2 * FAILURES}


async def test_an_open_circuit_sends_to_the_other_target_without_asking() -> None:
    models = {"fast": {"targets": targets(a=1, b=0), "retries": 0}}
    async with world({"a": refusing(503), "b": saying("b")}, models) as made:
        for _ in range(FAILURES + 5):
            assert await ask(made.router, "fast") == "b"
        assert made.asked() == {"a": FAILURES, "b": FAILURES + 5}
        infos = {info.id: info for info in await made.router.models()}
        assert [(each.upstream, each.state) for each in infos["fast"].targets] == [
            ("a", "open"),
            ("b", "closed"),
        ]
        assert infos["fast"].healthy


async def test_so_many_at_a_time_the_others_wait_and_too_many_are_refused() -> None:
    go_on = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await go_on.wait()
        await saying("a")(exchange)

    terms = {"a": {"concurrency": 1, "queue": 2}}
    async with world({"a": slow}, {}, **terms) as made:
        asked = [asyncio.create_task(ask(made.router, "m", stream=True)) for _ in range(3)]
        (upstream,) = made.router.upstreams
        await until(
            lambda: upstream.slots.waiting == 2 and made.asked() == {"a": 1}  # type: ignore[attr-defined]
        )
        with pytest.raises(UpstreamError, match="busy: 2 requests wait already") as refused:
            await ask(made.router, "m")
        assert (refused.value.status, made.asked()) == (503, {"a": 1})
        go_on.set()
        assert await asyncio.gather(*asked) == ["a"] * 3


async def test_a_place_in_the_queue_is_left_when_its_client_leaves() -> None:
    async with world({"a": hanging}, {}, a={"concurrency": 1}) as made:
        asked = [asyncio.create_task(ask(made.router, "m", stream=True)) for _ in range(2)]
        (upstream,) = made.router.upstreams
        await until(lambda: upstream.slots.waiting == 1 and made.asked() == {"a": 1})  # type: ignore[attr-defined]
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert (upstream.slots.held, upstream.slots.waiting) == (0, 0)  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            await made.servers["a"].exchanges[0].gone.wait()


TIMES: dict[str, tuple[dict[str, Any], bool, str]] = {
    "the first token": ({"first_token_seconds": 0.2}, True, "no first token within 0.2 s"),
    "the whole": ({"total_seconds": 0.2}, False, "did not end its answer within 0.2 s|silent"),
    "the queue": (
        {"concurrency": 1, "queue_seconds": 0.2},
        True,
        "no place came free within 0.2 s",
    ),
}


@pytest.mark.parametrize("case", ["the first token", "the whole"])
async def test_each_phase_has_its_time(case: str) -> None:
    terms, stream, told = TIMES[case]
    async with world({"a": hanging}, {}, a=terms) as made:
        started = time.monotonic()
        with pytest.raises(Timeout, match=told):
            await ask(made.router, "m", stream)
        assert time.monotonic() - started < 20


async def test_silence_between_tokens_ends_a_stream() -> None:
    async def falling_silent(exchange: Exchange) -> None:
        await exchange.send(EVENT_STREAM + data(chunk("a")))
        await exchange.gone.wait()

    async with world({"a": falling_silent}, {}, a={"between_tokens_seconds": 0.2}) as made:
        with pytest.raises(Timeout, match="silent"):
            await ask(made.router, "m", stream=True)


async def test_a_stream_without_an_end_is_ended() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(EVENT_STREAM)
        while not exchange.gone.is_set():
            await exchange.send(data(chunk("a")))
            await asyncio.sleep(0.01)

    async with world({"a": endless}, {}, a={"total_seconds": 0.3}) as made:
        with pytest.raises(Timeout, match="did not end its answer within"):
            await ask(made.router, "m", stream=True)
        assert made.router.upstreams[0].state == "closed"  # type: ignore[attr-defined]


async def test_waiting_in_the_queue_has_its_time() -> None:
    terms, stream, told = TIMES["the queue"]
    async with world({"a": hanging}, {}, a=terms) as made:
        first = asyncio.create_task(ask(made.router, "m", stream))
        await until(lambda: made.asked() == {"a": 1})
        with pytest.raises(UpstreamError, match=told):
            await ask(made.router, "m", stream)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_a_strict_upstream_gets_no_field_that_it_refuses() -> None:
    terms = {"a": {"strict": True, "refuse_fields": ["store", "logprobs"]}}
    async with world({"a": saying("a")}, {}, **terms) as made:
        await ask(made.router, "m", top_k=3, store=True, temperature=0)
        assert set(made.servers["a"].exchanges[0].body) == {
            "model",
            "messages",
            "temperature",
            "stream",
        }
        with pytest.raises(UpstreamError, match="'logprobs' is not supported") as refused:
            await ask(made.router, "m", logprobs=True)
        assert (refused.value.body["code"], refused.value.param) == (
            "unsupported_parameter",
            "logprobs",
        )


async def test_what_one_target_cannot_do_another_may() -> None:
    models = {"fast": {"targets": targets(a=1, b=0)}}
    async with world(
        {"a": saying("a"), "b": saying("b")}, models, a={"refuse_fields": ["n"]}
    ) as made:
        assert await ask(made.router, "fast", n=2) == "b"
        assert await ask(made.router, "fast") == "a"


async def test_embeddings_go_to_targets_too() -> None:
    models = {"vectors": {"targets": targets(a=1, b=0), "retries": 0}}
    async with world({"a": refusing(500), "b": saying("b")}, models) as made:
        model, known_as = await made.router.resolve_embedding("vectors")
        answer = await model.embed({"model": known_as, "input": ["x"]})
        assert answer["data"][0]["embedding"] == [1.0, 2.0]
        assert made.servers["b"].exchanges[0].body["model"] == "m"


async def test_an_upstream_without_embeddings_says_so() -> None:
    upstreams = {"a": UpstreamSetting(url="scripted:")}
    async with open_router(Settings(upstreams)) as router:
        model, known_as = await router.resolve_embedding("scripted")
        with pytest.raises(NotFound, match="does not embed"):
            await model.embed({"model": known_as, "input": ["x"]})


async def test_the_embedded_scripted_model_can_be_a_target() -> None:
    upstreams = {"own": UpstreamSetting(url="scripted:")}
    models = {"mine": {"targets": [{"upstream": "own", "model": "scripted"}]}}
    made = {name: ModelSetting.model_validate(setting) for name, setting in models.items()}
    async with open_router(Settings(upstreams, made, llm_model="mine")) as router:
        assert await ask(router, "default") == "hi"
        infos = {info.id: info for info in await router.models()}
    assert infos["mine"].default
    assert infos["mine"].capabilities == infos["scripted"].capabilities


async def test_a_target_on_an_unknown_upstream_is_refused_at_the_start() -> None:
    models = {"fast": ModelSetting.model_validate({"targets": targets("nowhere")})}
    upstreams = {"a": UpstreamSetting(url="scripted:")}
    with pytest.raises(
        ConfigurationError, match=r"fast\.targets\.0\.upstream: there is no upstream 'nowhere'"
    ):
        async with open_router(Settings(upstreams, models)):
            pass


@pytest.mark.parametrize("url", ["ftp://x/v1", "http://u:secret@h/v1", "gguf:/nowhere.gguf"])
async def test_a_malformed_address_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        async with open_router(Settings({"a": UpstreamSetting(url=url)})):
            pass
    assert "secret" not in str(refused.value)


async def test_cancelling_a_model_of_several_frees_the_upstream() -> None:
    models = {"fast": {"targets": targets("a")}}
    async with world({"a": hanging}, models) as made:
        task = asyncio.create_task(ask(made.router, "fast", stream=True))
        await until(lambda: made.asked() == {"a": 1})
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(30):
            await made.servers["a"].exchanges[0].gone.wait()
