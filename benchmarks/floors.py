"""What we are measured against: the bare SDK, a bare proxy and a bare job queue, with nothing of ours in them."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from typing_extensions import TypedDict


class Echo(TypedDict):
    text: str
    number: int


def sdk_server() -> Any:
    """The SDK's own server with the same tool."""
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("floor", version="1")

    @server.tool()
    async def echo(text: str, number: int = 0) -> Echo:
        """Return the arguments."""
        return Echo(text=text, number=number)

    del echo
    return server


def serve_http(port: int) -> None:
    """The SDK's server over Streamable HTTP, with the fast parts of uvicorn that we use too."""
    import uvicorn

    app = sdk_server().streamable_http_app()
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", log_level="warning")


def serve_proxy(port: int, upstream: str) -> None:
    """A proxy that parses, forwards and copies, as thin as Starlette and aiohttp allow."""
    import aiohttp
    import orjson
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    session: list[aiohttp.ClientSession] = []

    async def chat(request: Request) -> Response:
        if not session:
            session.append(aiohttp.ClientSession())
        body = orjson.loads(await request.body())
        answer = await session[0].post(f"{upstream}/v1/chat/completions", json=body)
        if not body.get("stream"):
            return Response(await answer.read(), media_type="application/json")
        return StreamingResponse(answer.content.iter_any(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", log_level="warning")


def serve_sdk_proxy(port: int, upstream: str) -> None:
    """A proxy as one writes it first: the SDK asks, and its objects are dumped again."""
    import openai
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    client = openai.AsyncOpenAI(base_url=f"{upstream}/v1", api_key="none")

    async def events(stream: Any) -> AsyncIterator[str]:
        async for chunk in stream:
            yield f"data: {chunk.model_dump_json()}\n\n"
        yield "data: [DONE]\n\n"

    async def chat(request: Request) -> Response:
        body = await request.json()
        answer: Any = await client.chat.completions.create(**body)
        if not body.get("stream"):
            return Response(answer.model_dump_json(), media_type="application/json")
        return StreamingResponse(events(answer), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", log_level="warning")


CHUNKS = 100
# Models speak a word at a time: a request that says "paced" gets one chunk in so many seconds.
PACE_SECONDS = 0.005


def serve_upstream(port: int) -> None:
    """A model that answers at once: one short text, or a stream of many chunks."""
    import asyncio

    import orjson
    import uvicorn

    head = {"id": "chatcmpl-1", "created": 1, "model": "m"}
    message = {"role": "assistant", "content": "word " * 20, "refusal": None}
    usage = {"prompt_tokens": 5, "completion_tokens": 20, "total_tokens": 25}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    whole = orjson.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    def event(delta: dict[str, Any], reason: str | None) -> bytes:
        part = {"index": 0, "delta": delta, "finish_reason": reason}
        return (
            b"data: "
            + orjson.dumps({**head, "object": "chat.completion.chunk", "choices": [part]})
            + b"\n\n"
        )

    events = [event({"role": "assistant", "content": ""}, None)]
    events += [event({"content": "word "}, None)] * (CHUNKS - 2) + [
        event({}, "stop"),
        b"data: [DONE]\n\n",
    ]
    models = orjson.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        streaming = b'"stream":true' in body.replace(b" ", b"")
        kind = b"text/event-stream" if streaming else b"application/json"
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
        )
        if scope["path"].endswith("/models"):
            await send({"type": "http.response.body", "body": models})
        elif streaming:
            paced = b'"paced"' in body
            for item in events:
                if paced:
                    await asyncio.sleep(PACE_SECONDS)
                await send({"type": "http.response.body", "body": item, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": whole})

    uvicorn.run(
        app, port=port, loop="uvloop", http="httptools", log_level="warning", lifespan="off"
    )


def work_off_jobs(url: str, loops: int) -> None:
    """A job queue in one table, without anything else: claim one by SKIP LOCKED, mark it done."""
    import asyncio

    import asyncpg

    claim = """
        update jobs set status = 'running', started_at = clock_timestamp() where id = (
            select id from jobs where status = 'queued' order by id limit 1 for update skip locked)
        returning id
    """
    done = "update jobs set status = 'completed', ended_at = clock_timestamp() where id = $1"

    async def loop() -> None:
        connection = await asyncpg.connect(url)
        while True:
            job = await connection.fetchval(claim)
            if job is None:
                await asyncio.sleep(0.02)
            else:
                await connection.execute(done, job)

    async def work() -> None:
        print("ready", flush=True)
        await asyncio.gather(*(loop() for _ in range(loops)))

    asyncio.run(work())


if __name__ == "__main__":
    os.environ.pop("ISTHMUS_DATA_DIR", None)
    match sys.argv[1:]:
        case ["stdio"]:
            sdk_server().run("stdio")
        case ["http", port]:
            serve_http(int(port))
        case ["proxy", port, upstream]:
            serve_proxy(int(port), upstream)
        case ["sdk-proxy", port, upstream]:
            serve_sdk_proxy(int(port), upstream)
        case ["upstream", port]:
            serve_upstream(int(port))
        case ["jobs", url, loops]:
            work_off_jobs(url, int(loops))
        case _:
            raise SystemExit(
                "give stdio, http PORT, proxy or sdk-proxy PORT UPSTREAM, upstream PORT or jobs URL LOOPS"
            )
