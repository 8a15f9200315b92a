"""kill -9 of the process that answers a batch: another one goes on, asks nothing that is answered, and files each line once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from sqlalchemy import text

from mcp_server.auth.principal import OWNER
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.services.batches import BatchRecord, BatchTerms
from mcp_server.services.batches.records import ENDED
from mcp_server.services.files import FileTerms
from mcp_server.settings import load_settings
from tests.doors.slow_model import SlowModel, serving_slow
from tests.e2e.deaths import Zygote, forgiving, fragile_workers
from tests.e2e.processes import LONG, ServeProcess
from tests.e2e.torment import PLUGINS

KEY = "sk-batch-crash-test-key"
LINES = 40
DEATHS, BATCHES = (200, 60) if LONG else (12, 5)
# Of the lines of each of those batches, every third names a model that is not there.
MODELS = ["default", "default", "nobody"] * 4


async def test_a_killed_process_leaves_a_batch_that_another_one_ends(data_dir: Path) -> None:
    async with serving_slow() as (model, upstream):
        model.hold_after = LINES // 2
        settings = {"LLM_URL": f"{upstream}/v1", "API_KEY": KEY}
        first = ServeProcess(data_dir, 0, **settings)
        second: ServeProcess | None = None
        try:
            await asyncio.to_thread(first.wait_ready)
            batch = await see_the_beginning(first, model)
            answered = list(model.answered)
            second = ServeProcess(data_dir, 0, **settings)
            await asyncio.to_thread(second.wait_ready)
            first.kill_group()
            model.hold_after = None
            await see_the_end(second, batch)
        finally:
            if second is not None:
                await asyncio.to_thread(second.stop)
            if first.process.poll() is None:
                first.kill_group()
    times = Counter(model.asked)
    assert len(answered) == LINES // 2
    assert {times[each] for each in answered} == {1}
    assert len(times) == LINES
    assert len(model.asked) <= LINES + 4  # those that were under way


async def see_the_beginning(server: ServeProcess, model: SlowModel) -> str:
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "default",
                "messages": [{"role": "user", "content": f"say {number}"}],
            },
        }
        for number in range(LINES)
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    async with connect(server) as client, asyncio.timeout(60):
        file = await client.files.create(file=("in.jsonl", data), purpose="batch")
        made = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        await model.until_held()
        while True:
            counts = (await client.batches.retrieve(made.id)).request_counts
            if counts is not None and counts.completed == LINES // 2:
                return made.id
            await asyncio.sleep(0.05)


async def see_the_end(server: ServeProcess, batch: str) -> None:
    async with connect(server) as client, asyncio.timeout(90):
        while (found := await client.batches.retrieve(batch)).status != "completed":
            assert found.status in {"in_progress", "finalizing"}, found
            await asyncio.sleep(0.05)
        assert found.request_counts is not None
        assert (found.request_counts.completed, found.error_file_id) == (LINES, None)
        content = (await client.files.content(found.output_file_id or "")).text
        answers = [json.loads(line) for line in content.splitlines()]
        assert [each["custom_id"] for each in answers] == [f"line-{n}" for n in range(LINES)]
        outputs = [each async for each in client.files.list(purpose="batch_output")]
        assert len(outputs) == 1


def connect(server: ServeProcess) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


@pytest.mark.timeout(1800)
async def test_workers_that_die_at_every_point_file_each_line_once(data_dir: Path) -> None:
    settings = load_settings(data_dir=data_dir, llm_url=("scripted:",), auth="off")
    async with open_runtime(settings, concurrency=0) as runtime:
        dying = partial(fragile_workers, data_dir, PLUGINS, LLM_URL="scripted:", share=0.15)
        with dying(points="tests.e2e.fragile_batches") as workers, forgiving():
            ended = await until_enough_died(runtime, workers)
        print(*sorted(workers.points()), sep="\n")
        for batch in ended:
            assert (batch.status, batch.total) == ("completed", len(MODELS)), batch
            assert (batch.completed, batch.failed) == (8, 4)
            for file, model in ((batch.output_file, "default"), (batch.error_file, "nobody")):
                wanted = [f"line-{n}" for n, named in enumerate(MODELS) if named == model]
                assert await custom_ids(runtime, file) == wanted
        outputs = await runtime.services.files.list(
            OWNER, purpose="batch_output", after=None, limit=1000, newest_first=True
        )
        assert len(outputs.items) == 2 * len(ended)
        async with runtime.engines.control.connect() as tx:
            assert await tx.scalar(text("select count(*) from batch_lines")) == 0


async def until_enough_died(runtime: Runtime, workers: Zygote) -> list[BatchRecord]:
    """Begin batches, a few at once, until workers died often enough; return the batches, ended."""
    tending = asyncio.create_task(workers.tend_forever())
    live: set[str] = set()
    ended: list[BatchRecord] = []
    try:
        async with asyncio.timeout(1500 if LONG else 300):
            while live or len(ended) < BATCHES or len(workers.points()) < DEATHS:
                if len(workers.points()) >= DEATHS:
                    workers.calm.touch()
                if len(live) < 3 and not (workers.calm.exists() and len(ended) >= BATCHES):
                    live.add(await begin(runtime))
                for each in [await runtime.services.batches.get(OWNER, batch) for batch in live]:
                    if each.status in ENDED:
                        ended.append(each)
                        live.remove(each.id)
                await asyncio.sleep(0.1)
    finally:
        tending.cancel()
    return ended


async def begin(runtime: Runtime) -> str:
    said = [{"role": "user", "content": "say it"}]
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": said},
        }
        for number, model in enumerate(MODELS)
    ]

    async def data() -> AsyncGenerator[bytes]:
        yield "\n".join(map(json.dumps, lines)).encode()

    terms = FileTerms("in.jsonl", "batch", "application/jsonl", None)
    file = await runtime.services.files.create(OWNER, data(), lambda: terms)
    asked = BatchTerms(input_file=file.id, endpoint="/v1/chat/completions")
    return (await runtime.services.batches.create(OWNER, asked)).id


async def custom_ids(runtime: Runtime, file: str) -> list[str]:
    found = await runtime.services.files.content(OWNER, file)
    content = b"".join([piece async for piece in found.bytes(0, found.stat["size"])])
    return [json.loads(line)["custom_id"] for line in content.splitlines()]
