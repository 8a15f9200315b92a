"""The demo's last steps: an agent at work, and the OpenAI SDK whose model calls a tool through MCP."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from mcp_server.commands.demo.tour import StepFailed, Tour
from mcp_server.llm.gguf_weights import MEND

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

AGENT = "demo-guide"
RUN_SECONDS = 300.0
CHAT_SECONDS = 300.0
_ENDED = ("completed", "failed", "cancelled", "expired")
_ANSWER_TOKENS = 120


@dataclass(frozen=True, slots=True)
class _Asker:
    """What to ask a model, and what to say about it; `forced`: tool_choice makes its call."""

    note: str
    agent: str
    chat: str
    forced: bool


def _asker(tour: Tour, models: list[dict[str, Any]]) -> _Asker:
    """Fit the questions to the first chat model: the two that come with the server are no thinkers.

    Raises:
        StepFailed: there is no chat model.
    """
    query = f"select name, span_m from {tour.table} where span_m > 1900"  # noqa: S608  our own name
    chat_models = [item["id"] for item in models if "chat" in item["capabilities"]]
    match chat_models[0] if chat_models else None:
        case None:
            raise StepFailed(f"no chat model answers: {MEND}")
        case "smollm2-135m-instruct":
            note = (
                "The embedded model is tiny: it shows the path, its words are often wrong, and it cannot decide "
                "by itself when to call a tool, so tool_choice makes it. Set ISTHMUS_LLM_URL for a capable one."
            )
            return _Asker(note, f'Get the value of the key "{tour.key}".', query, forced=True)
        case "scripted":
            note = "The scripted model does not think: it hands on to the tool what it is told."
            return _Asker(note, tour.key, query, forced=False)
        case _:
            agent = f"What does it cost to cross? It is stored under the key {tour.key}."
            chat = (
                f"Which bridges in the table {tour.table} (name, country, opened, kind, span_m) "
                "have a span of more than 1900 metres?"
            )
            return _Asker("", agent, chat, forced=False)


async def agent(tour: Tour) -> None:
    screen = tour.screen
    models = (await tour.call("model_list"))["items"]
    screen.result(", ".join(f"{item['id']} ({item['upstream']})" for item in models))
    asker = _asker(tour, models)
    if asker.note:
        screen.note(asker.note)
    saved = await tour.call(
        "agent_save",
        name=AGENT,
        instructions="You answer questions about stored values. Look them up, then answer in one short sentence.",
        tools=["kv_get"],
        limits={"seconds": RUN_SECONDS},
    )
    screen.result(f"{saved['name']}, version {saved['version']}, may use {saved['tools']}")

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        screen.now(f"{AGENT} is at work: {message}")
        if message and ": " in message:
            screen.note(f"progress: {message}")

    done = await tour.call("agent_run", agent=AGENT, input=asker.agent, progress=tell)
    if done["status"] not in _ENDED:
        done = await _end_of(tour, done["run"])
    if done["status"] != "completed":
        raise StepFailed(f"run {done['run']} ended as {done['status']}: {done['error']}")
    screen.result(f"{done['status']}: {done['output']}")
    screen.note(f"It is also the resource run://{done['run']} and the OpenAI model agent/{AGENT}.")


async def _end_of(tour: Tour, run: str) -> dict[str, Any]:
    tour.screen.call("run_get", json.dumps({"run": run}))
    async with tour.screen.waiting(f"waiting for {run}"):
        with anyio.move_on_after(RUN_SECONDS):
            while True:
                item = await tour.call_unseen("run_get", run=run)
                if item["status"] in _ENDED:
                    return item
                await anyio.sleep(0.5)
    await tour.call("run_cancel", run=run)
    raise StepFailed(f"{run} was not over after {RUN_SECONDS:.0f} s, so it was cancelled")


async def openai_sdk(tour: Tour) -> None:
    try:
        import httpx2
        from openai import AsyncOpenAI, OpenAIError
    except ModuleNotFoundError as error:
        raise StepFailed(f"it needs the {error.name} package: pip install openai") from error
    base_url = f"{tour.target.url}/v1"
    tour.screen.call("OpenAI", f'(base_url="{base_url}", api_key=…)')
    # A proxy that the environment names knows nothing of a server on this machine.
    async with AsyncOpenAI(
        base_url=base_url,
        api_key=tour.target.key or "none",
        timeout=CHAT_SECONDS,
        max_retries=0,
        http_client=httpx2.AsyncClient(trust_env=not tour.target.own),
    ) as client:
        try:
            await _chat(tour, client)
        except OpenAIError as error:
            raise StepFailed(f"the OpenAI SDK says: {error}") from error


async def _chat(tour: Tour, client: AsyncOpenAI) -> None:
    models = [model.id async for model in client.models.list()]
    tour.screen.call("client.models.list")
    tour.screen.result(", ".join(models))
    asker = _asker(tour, (await tour.call_unseen("model_list"))["items"])
    if asker.forced:
        tour.screen.note("The embedded model again, so tool_choice makes the call.")
    calls = await _ask(tour, client, asker.chat, forced=asker.forced)
    if not calls and not asker.forced:
        tour.screen.note("The model chose to answer without the tool; now tool_choice asks for it.")
        calls = await _ask(tour, client, asker.chat, forced=True)
    if not calls:
        raise StepFailed("the model answered without calling the tool")
    for made in calls:
        tour.screen.note(f"The server called {made['name']}({made['arguments']}) over MCP.")
    if all(made["is_error"] for made in calls):
        raise StepFailed("none of the calls that the model wrote could be carried out")


async def _ask(
    tour: Tour, client: AsyncOpenAI, question: str, *, forced: bool
) -> list[dict[str, Any]]:
    """Ask for a stream and show it; return the calls that the server ran on the way."""
    extra: dict[str, Any] = {
        "tools": [{"type": "mcp", "server_label": "isthmus", "allowed_tools": ["sql_query"]}]
    }
    if forced:
        extra["tool_choice"] = {"type": "mcp", "server_label": "isthmus", "name": "sql_query"}
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    shown = {"model": "default", "messages": messages, **extra, "stream": True}
    tour.screen.call("client.chat.completions.create", json.dumps(shown))
    calls: list[dict[str, Any]] = []
    async with tour.screen.waiting("waiting for the model"):
        stream = await client.chat.completions.create(
            model="default",
            messages=messages,
            max_completion_tokens=_ANSWER_TOKENS,
            stream=True,
            extra_body=extra,  # the SDK's types for chat know functions only
        )
        pieces = _pieces(stream, calls)
        first = await anext(pieces, "")
    tour.screen.begin_text()
    tour.screen.piece(first)
    async for piece in pieces:
        tour.screen.piece(piece)
    tour.screen.end_text()
    return calls


async def _pieces(
    stream: AsyncStream[ChatCompletionChunk], calls: list[dict[str, Any]]
) -> AsyncGenerator[str, None]:
    """Yield the text of a stream, and note what the server did for it: the last chunk tells."""
    async for chunk in stream:
        done: Any = (chunk.model_extra or {}).get("isthmus")
        if done is not None:
            calls.extend(done["tool_calls"])
        for choice in chunk.choices:
            if choice.delta.content:
                yield choice.delta.content
