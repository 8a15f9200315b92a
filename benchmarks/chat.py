"""CPU and delay of chat pass-through, whole and streamed, beside other proxies over the same upstream.

uv run --group dev python benchmarks/chat.py
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from floors import CHUNKS
from measure import (
    KEY,
    Figure,
    cpu_seconds,
    floor_command,
    free_port,
    interleaved,
    isthmus_command,
    isthmus_environment,
    measure,
    running,
)
from proxies import PROXIES, Proxy

ROUNDS = 3
ASKED = 100
CLIENTS = 16
WARM_SECONDS, REST_SECONDS = 15.0, 5.0  # what is loaded in the background has come by then
BODY = {"model": "m", "messages": [{"role": "user", "content": "Say something."}], "temperature": 0}
OURS = "isthmus"


@dataclass(frozen=True)
class Kind:
    """One kind of request: how many of them a round has, and how many parts its CPU is told for."""

    what: str
    count: int
    parts: int
    body: Mapping[str, Any]

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))


WHOLE = Kind("whole answer", 2000, 1, BODY)
AT_ONCE = Kind(f"stream of {CHUNKS} chunks at once", 300, CHUNKS, {**BODY, "stream": True})
PACED = Kind(
    f"stream of {CHUNKS} chunks, a word at a time",
    *(160, CHUNKS, {**BODY, "stream": True, "user": "paced"}),
)


async def main() -> None:
    upstream = free_port()
    url = f"http://127.0.0.1:{upstream}"
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scratch.chmod(0o755)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"})
        )
        await stack.enter_async_context(running(floor_command("upstream", str(upstream)), upstream))
        proxies: list[Proxy] = []
        for opening in PROXIES:
            proxy = await stack.enter_async_context(opening(url, scratch))
            if proxy is not None:
                proxies.append(proxy)
        port = free_port()
        environment = isthmus_environment(scratch / "data", f"{url}/v1")
        environment["ISTHMUS_RATE_LIMIT"] = "100000/second"  # never reached, yet counted
        serving = running(isthmus_command("serve", "--port", str(port)), port, environment)
        proxies.append(Proxy(OURS, await stack.enter_async_context(serving), port))
        rest = await at_rest(proxies)
        for kind in (WHOLE, AT_ONCE, PACED):
            await compare(http, kind, proxies, rest)
        await delays(http, {"upstream": upstream, **{each.name: each.port for each in proxies}})


async def at_rest(proxies: list[Proxy]) -> dict[str, float]:
    """Measure what each takes in a second in which nobody asks it: microseconds of CPU."""
    await asyncio.sleep(WARM_SECONDS)
    before = [cpu_seconds(each.pid) for each in proxies]
    await asyncio.sleep(REST_SECONDS)
    return {
        each.name: (cpu_seconds(each.pid) - begun) / REST_SECONDS * 1e6
        for each, begun in zip(proxies, before, strict=True)
    }


async def compare(
    http: aiohttp.ClientSession, kind: Kind, proxies: list[Proxy], rest: dict[str, float]
) -> None:
    """Show the CPU of each for one kind of request, of which so much it would take at rest as well."""

    async def once(proxy: Proxy) -> Figure:
        async def ask(_: int) -> None:
            async with http.post(chat_at(proxy.port), json=kind.body) as answer:
                text = await answer.read()
                assert answer.status == 200, text
                assert (b"[DONE]" in text) is kind.streams, text

        count = max(int(kind.count * proxy.share), CLIENTS)
        return await measure(proxy.pid, ask, count=count, clients=CLIENTS)

    figures = await interleaved(
        {each.name: lambda each=each: once(each) for each in proxies}, ROUNDS
    )
    part = "chunk" if kind.streams else "answer"
    print(f"Chat, {kind.what}: CPU per {part}, of it at rest; answers per second (load {load()})")
    for name, figure in figures.items():
        share = rest[name] / figure.rate / kind.parts
        print(
            f"  {name:26}{figure.cpu / kind.parts:9.1f} µs {share:7.1f} µs {figure.rate:9.1f}/s"
            f"   isthmus / it: CPU {figures[OURS].cpu / max(figure.cpu, 1.0):6.3f}"
            f"   rate {figures[OURS].rate / figure.rate:6.2f}"
        )
    print()


async def delays(http: aiohttp.ClientSession, ports: dict[str, int]) -> None:
    """Show how long one client waits for a whole answer and for the first bytes of a stream, in turn."""
    waits: dict[tuple[str, bool], list[float]] = {}
    for _ in range(ASKED):
        for stream in (False, True):
            for name, at in ports.items():
                begun = time.perf_counter()
                async with http.post(chat_at(at), json={**BODY, "stream": stream}) as answer:
                    await (answer.content.readany() if stream else answer.read())
                    waits.setdefault((name, stream), []).append(time.perf_counter() - begun)
                    await answer.read()
    for stream, what in ((False, "whole answer"), (True, "first bytes of a stream")):
        print(f"Delay of one client, {what}: what is added to the upstream's own (load {load()})")
        floor50, floor99 = quantiles(waits["upstream", stream])
        for name in list(ports)[1:]:
            p50, p99 = quantiles(waits[name, stream])
            print(
                f"  {name:26} p50 +{(p50 - floor50) * 1e3:.2f} ms   p99 +{(p99 - floor99) * 1e3:.2f} ms"
            )
        print()


def quantiles(seconds: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return cuts[49], cuts[98]


def chat_at(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1/chat/completions"


def load() -> str:
    return f"{os.getloadavg()[0]:.0f}"


if __name__ == "__main__":
    asyncio.run(main())
