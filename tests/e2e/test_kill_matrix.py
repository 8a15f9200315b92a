"""Workers that die, stop and come back, and PostgreSQL that is killed, at every point of a run: nothing is lost, nothing doubled."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mcp_server.auth.principal import OWNER
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import load_settings
from tests.e2e.deaths import fragile_workers
from tests.e2e.processes import LONG
from tests.e2e.torment import (
    KINDS,
    PLUGINS,
    SQL_TABLE,
    Torment,
    aftermath,
    counted,
    events_of,
    stale,
    wrong_in,
)

POINTS_WANTED, RUNS, STEPS = (2000, 400, 12) if LONG else (100, 32, 8)


@pytest.mark.timeout(3600)
async def test_runs_survive_every_death(data_dir: Path) -> None:
    settings = load_settings(
        data_dir=data_dir, llm_url=("scripted:",), plugins=(PLUGINS,), auth="off"
    )
    async with open_runtime(settings, concurrency=0) as runtime:
        made = await runtime.bus.call(OWNER, "sql_execute", {"sql": SQL_TABLE})
        assert not made.is_error, made.text

        async def start(number: int) -> object:
            arguments = {"steps": STEPS, "ask": number % 2 == 0}
            return await runtime.services.runs.start_tool(OWNER, "effects", arguments)

        with fragile_workers(data_dir, PLUGINS) as workers:
            torment = Torment(runtime, workers, start, "yes", POINTS_WANTED, RUNS)
            runs = await torment.endure()
        await aftermath(torment, runs, [problem async for problem in check(runtime, runs)])


async def check(runtime: Runtime, runs: list[str]) -> AsyncGenerator[str]:
    """Yield what is wrong with the effects, the answers and the events of the runs."""
    for run in runs:
        item = await runtime.services.runs.get(OWNER, run)
        if item["status"] != "completed":
            yield f"{run}: {item['status']} {item['error']}"
            continue
        if item["output"]["is_error"]:
            yield f"{run}: {item['output']['text']}"
        for number in range(STEPS):
            kind = KINDS[number % 4]
            times = await counted(runtime, run, f"{kind}/{number}", kind)
            if times != 1:
                yield f"{run} {kind}/{number}: done {times} times"
        for problem in wrong_in(await events_of(runtime, run)):
            yield f"{run}: {problem}"
        async for problem in stale(runtime, run):
            yield problem
