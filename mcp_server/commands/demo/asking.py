"""The demo's last steps: an agent at work, and the OpenAI SDK whose model calls a tool through MCP."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import anyio

from mcp_server.commands.demo.tour import StepFailed, Tour

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream
    from openai.types.chat import ChatCompletionChunk

AGENT = "demo-guide"
RUN_SECONDS = 300.0
CHAT_SECONDS = 300.0
SMALL_MODEL = "smollm2-135m-instruct"
_ENDED = ("completed", "failed", "cancelled")
_ANSWER_TOKENS = 120


async def agent(tour: Tour) -> None:
    screen = tour.screen
    await _say_which_model(tour)
    saved = await tour.call(
        "agent_save",
        name=AGENT,
        instructions="You answer questions about stored values. Look them up, then answer in one short sentence.",
        tools=["kv_get"],
    )
    screen.result(f"{saved['name']}, version {saved['version']}, may use {saved['tools']}")
    question = f"What is the value of the key crossing in the namespace {tour.namespace}?"

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        screen.now(f"{AGENT} is at work: {message}")
        if message and ": " in message:
            screen.note(f"progress: {message}")

    done = await tour.call("agent_run", agent=AGENT, input=question, progress=tell)
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


async def _say_which_model(tour: Tour) -> None:
    found = await tour.call("model_list")
    models = [item for item in found["items"] if "chat" in item["capabilities"]]
    tour.screen.result(", ".join(f"{item['id']} ({item['upstream']})" for item in models))
    if await _is_small(tour):
        tour.screen.note(
            "The embedded model is tiny: it shows the path, and its answers are often wrong. "
            "Set ISTHMUS_LLM_URL for a capable one."
        )


async def _is_small(tour: Tour) -> bool:
    found = await tour.call_unseen("model_list")
    chat = [item["id"] for item in found["items"] if "chat" in item["capabilities"]]
    return chat[:1] == [SMALL_MODEL]


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
    forced = await _is_small(tour)
    if forced:
        tour.screen.note(
            "The embedded model is too small to decide by itself when to call a tool, so tool_choice makes it."
        )
    calls = await _ask(tour, client, forced=forced)
    if not calls and not forced:
        tour.screen.note("The model chose to answer without the tool; now tool_choice asks for it.")
        calls = await _ask(tour, client, forced=True)
    if not calls:
        raise StepFailed("the model answered without calling the tool")
    for made in calls:
        tour.screen.note(f"The server called {made['name']}({made['arguments']}) over MCP.")
    if all(made["is_error"] for made in calls):
        raise StepFailed("each of the model's calls failed")


async def _ask(tour: Tour, client: AsyncOpenAI, *, forced: bool) -> list[dict[str, Any]]:
    """Ask for a stream and show it; return the calls that the server ran on the way."""
    extra: dict[str, Any] = {
        "tools": [{"type": "mcp", "server_label": "isthmus", "allowed_tools": ["sql_schema"]}]
    }
    if forced:
        extra["tool_choice"] = {"type": "mcp", "server_label": "isthmus", "name": "sql_schema"}
    shown = {"model": "default", **extra, "stream": True}
    tour.screen.call("client.chat.completions.create", json.dumps(shown))
    calls: list[dict[str, Any]] = []
    async with tour.screen.waiting("waiting for the model"):
        stream = await client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": f"Describe the table {tour.table}."}],
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
