"""kill -9 of the process that answers a batch: another one goes on, and asks nothing that is answered."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

from openai import AsyncOpenAI

from tests.doors.slow_model import SlowModel, serving_slow
from tests.e2e.processes import ServeProcess

KEY = "sk-batch-crash-test-key"
LINES = 40


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
