"""kill -9 of the worker that reads files into a vector store: another one reads the rest, and nothing twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from openai import AsyncOpenAI
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_server.app import open_http
from mcp_server.runtime import open_runtime
from mcp_server.settings import Settings
from tests.doors.live import KEY, serving
from tests.e2e.processes import environment

LEASE_SECONDS = 1.0
FILES = ("the first", "the second", "the third")


class Hesitant:
    """An embedding model that answers for the second text only when whoever asked is dead."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.hesitates, self.released = asyncio.Event(), asyncio.Event()
        routes = [
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/embeddings", self._embed, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "hesitant", "object": "model"}]})

    async def _embed(self, request: Request) -> Response:
        texts: list[str] = (await request.json())["input"]
        self.asked.update(texts)
        if FILES[1] in texts and self.asked[FILES[1]] == 1:
            self.hesitates.set()
            await self.released.wait()
        data = [{"index": n, "embedding": [len(each), 1.0, 2.0]} for n, each in enumerate(texts)]
        return JSONResponse({"object": "list", "data": data, "model": "hesitant"})


@asynccontextmanager
async def workers(env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.e2e.quick_workers", str(LEASE_SECONDS)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=env,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(30):
            await process.wait()


async def one_more(process: asyncio.subprocess.Process) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    return int(await process.stdout.readline())


async def test_files_whose_worker_is_killed_are_read_by_another_one_once(data_dir: Path) -> None:
    model = Hesitant()
    async with serving(model.app) as upstream:
        settings = {"LLM_URL": "scripted:", "EMBEDDINGS_URL": f"{upstream}/v1", "API_KEY": KEY}
        here = Settings(
            data_dir=data_dir,
            api_key=KEY,
            embeddings_url=f"{upstream}/v1",
            llm_url=("scripted:",),
        )
        async with (
            open_runtime(here, concurrency=0) as runtime,
            open_http(runtime) as http,
            serving(http.app) as url,
            AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client,
            workers(environment(data_dir, **settings)) as process,
        ):
            store = await client.vector_stores.create(name="crash")
            ids = [
                (await client.files.create(file=("f.txt", each.encode()), purpose="assistants")).id
                for each in FILES
            ]
            batch = await client.vector_stores.file_batches.create(store.id, file_ids=ids)
            first = await one_more(process)
            async with asyncio.timeout(30):
                await model.hesitates.wait()
            os.kill(first, signal.SIGKILL)
            model.released.set()
            await one_more(process)
            ended = await client.vector_stores.file_batches.poll(
                batch.id, vector_store_id=store.id, poll_interval_ms=50
            )
            states = [
                (each.status, each.last_error)
                async for each in client.vector_stores.files.list(store.id)
            ]
            assert states == [("completed", None)] * 3
            assert (ended.status, ended.file_counts.completed) == ("completed", 3)
            query = text(
                "select uri, count(*) as writes from journal where uri like :these group by uri"
            )
            async with runtime.engines.control.connect() as tx:
                these = {"these": f"vector://{store.id}/file-%"}
                written = {row.uri: row.writes for row in await tx.execute(query, these)}
            assert written == {f"vector://{store.id}/{file}": 1 for file in ids}
    hesitated = model.asked.pop(FILES[1])
    assert hesitated == 2
    assert all(model.asked[each] == 1 for each in (FILES[0], FILES[2]))
