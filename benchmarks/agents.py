"""CPU and time per step of an agent's run, beside a bare loop over the same model and tools in one process.

uv run --group dev python benchmarks/agents.py
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import PLUGINS

from mcp_server.agents.answer import Answer
from mcp_server.auth.principal import OWNER
from mcp_server.llm import Model
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import load_settings
from mcp_server.toolbox import BusToolbox

ROUNDS = 7
RUNS = 20
STEPS = 8
"""Of one run: each asks the model and makes one call; the answer comes after the last."""
AGENT = "stepper"
TOOLS = {"echo": {"text": "hello", "number": 1}, "kv_set": {"key": "step", "value": "done"}}


@dataclass(frozen=True)
class Cost:
    """Of one step: milliseconds of this process's CPU, and of time."""

    cpu: float
    wall: float


async def main() -> None:
    for tool, arguments in TOOLS.items():
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch).chmod(0o755)
            script = Path(scratch) / "script.yaml"
            script.write_text(turns(tool, arguments))
            settings = load_settings(
                data_dir=Path(scratch) / "data",
                llm_url=(f"scripted:{script}",),
                plugins=(PLUGINS,),
                auth="off",
            )
            async with open_runtime(settings) as runtime:
                await compare(runtime, tool)


def turns(tool: str, arguments: dict[str, Any]) -> str:
    """Write the script of a model that calls one tool again and again; JSON is YAML."""
    call = {"tool_calls": [{"name": tool, "arguments": arguments}]}
    return json.dumps({"turns": [call] * STEPS + [{"text": "done"}]})


async def compare(runtime: Runtime, tool: str) -> None:
    """Measure both in turn, after one round of each to warm up."""
    model, known_as = await runtime.engines.router.resolve("default")
    await runtime.services.agents.save(OWNER, AGENT, instructions="Go on.", tools=[tool])

    async def durable() -> None:
        done = await runtime.services.runs.run(OWNER, AGENT, "go", wait_seconds=60)
        assert done["output"] == "done", done

    async def bare() -> None:
        assert await bare_loop(model, known_as, BusToolbox(runtime.bus, OWNER, [tool])) == "done"

    await measured(bare)
    await measured(durable)
    bares: list[Cost] = []
    ours: list[Cost] = []
    for _ in range(ROUNDS):
        bares.append(await measured(bare))
        ours.append(await measured(durable))
    print(f"An agent that calls {tool}, per step, median of {ROUNDS} rounds of {RUNS} runs")
    for name, costs in (("bare loop", bares), ("isthmus", ours)):
        print(f"  {name:12}{middle(costs, 'cpu'):7.2f} ms CPU {middle(costs, 'wall'):7.2f} ms")
    added = [mine.wall - floor.wall for mine, floor in zip(ours, bares, strict=True)]
    ratios = [mine.cpu / floor.cpu for mine, floor in zip(ours, bares, strict=True)]
    print(f"  added per step: {statistics.median(added):.2f} ms", end="; ")
    print(f"ratio of CPU: {statistics.median(ratios):.2f}\n")


def middle(costs: list[Cost], name: str) -> float:
    return statistics.median(getattr(cost, name) for cost in costs)


async def measured(once: Callable[[], Awaitable[None]]) -> Cost:
    """Run one after the other, so that the time is that of one run and not of a queue."""
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(RUNS):
        await once()
    steps = RUNS * (STEPS + 1) / 1000
    return Cost((time.process_time() - cpu) / steps, (time.perf_counter() - begun) / steps)


async def bare_loop(model: Model, known_as: str, toolbox: BusToolbox) -> str:
    """Ask, call, ask again: nothing is stored, checked or told."""
    tools = await toolbox.specs()
    messages: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    while True:
        answer = Answer()
        request = {"model": known_as, "messages": messages, "tools": tools, "stream": True}
        async with aclosing(model.stream(request)) as chunks:
            async for chunk in chunks:
                answer.add(chunk)
        messages.append(answer.message())
        if not answer.calls:
            return str(answer.message()["content"])
        for call in answer.calls:
            outcome = await toolbox.call(call.name, call.read(), key=None)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": outcome.text})


if __name__ == "__main__":
    asyncio.run(main())
