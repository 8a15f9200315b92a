"""`isthmus worker`: executes what others queue, and stops without losing any of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from mcp_server.auth.principal import OWNER
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import Settings
from tests.e2e.processes import environment

SLOW = "turns: [{text: late, delay_ms: 4000}]"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[Runtime]:
    """A process without a worker over the same data."""
    async with open_runtime(
        Settings(data_dir=data_dir, llm_url=("scripted:",)), concurrency=0
    ) as it:
        await it.services.agents.save(OWNER, "helper", instructions="")
        yield it


@asynccontextmanager
async def worker(
    data_dir: Path, *arguments: str, **settings: str
) -> AsyncGenerator[subprocess.Popen[str]]:
    process = subprocess.Popen(  # noqa: ASYNC220  it takes a moment, once
        [sys.executable, "-m", "mcp_server", "worker", *arguments],
        env=environment(data_dir, **settings),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        await asyncio.to_thread(process.wait)
        process.stdout.close()


async def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with anyio.fail_after(60):
        return (await asyncio.to_thread(process.stdout.readline)).strip()


async def until(client: Runtime, run: str, status: str) -> None:
    with anyio.fail_after(30):
        while (await client.services.runs.get(OWNER, run))["status"] != status:
            await asyncio.sleep(0.02)


async def test_it_says_when_it_is_ready_executes_and_ends(client: Runtime, data_dir: Path) -> None:
    queued = await client.services.runs.start(OWNER, "helper", "hello there")
    assert queued["status"] == "queued"
    async with worker(data_dir, "--concurrency", "3") as process:
        assert await line(process) == "Isthmus worker is ready (3 slots)"
        await until(client, queued["run"], "completed")
        assert (await client.services.runs.get(OWNER, queued["run"]))["output"] == "hello there"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0


async def test_a_stop_lets_a_run_end_and_a_second_one_hands_it_back(
    client: Runtime, data_dir: Path, tmp_path: Path
) -> None:
    script = tmp_path / "slow.yaml"
    script.write_text(SLOW, encoding="utf-8")
    for signals, status in ((1, "completed"), (2, "queued")):
        async with worker(data_dir, LLM_URL=f"scripted:{script}") as process:
            assert await line(process) == "Isthmus worker is ready (8 slots)"
            run = (await client.services.runs.start(OWNER, "helper", "x"))["run"]
            await until(client, run, "running")
            for _ in range(signals):
                os.kill(process.pid, signal.SIGTERM)
                await asyncio.sleep(0.3)
            assert await asyncio.to_thread(process.wait, 20) == 0
        found = await client.services.runs.get(OWNER, run)
        assert (found["status"], found["attempt"]) == (status, 1)


@pytest.mark.parametrize("number", ["0", "-1", "9999", "x"])
def test_a_number_that_does_not_fit_is_refused_in_one_line(data_dir: Path, number: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mcp_server", "worker", f"--concurrency={number}"],
        env=environment(data_dir),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--concurrency" in done.stderr
    assert done.stderr.count("\n") == 1
