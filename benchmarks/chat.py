"""CPU and delay of chat pass-through, whole and streamed, beside a bare proxy over the same upstream.

uv run --group dev python benchmarks/chat.py
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
from floors import CHUNKS
from measure import (
    KEY,
    Figure,
    floor_command,
    free_port,
    isthmus_command,
    isthmus_environment,
    measure,
    paired,
    report,
    running,
)

ROUNDS = 3
ASKED = 100
BODY = {"model": "m", "messages": [{"role": "user", "content": "Say something."}], "temperature": 0}


async def main() -> None:
    upstream, floor_port, port = free_port(), free_port(), free_port()
    url = f"http://127.0.0.1:{upstream}"
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        environment = isthmus_environment(Path(scratch) / "data", f"{url}/v1")
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http,
            running(floor_command("upstream", str(upstream)), upstream),
            running(floor_command("proxy", str(floor_port), url), floor_port) as floor,
            running(isthmus_command("serve", "--port", str(port)), port, environment) as ours,
        ):

            async def once(pid: int, at: int, *, stream: bool, paced: bool = False) -> Figure:
                async def ask(_: int) -> None:
                    body = {**BODY, "stream": stream, **({"user": "paced"} if paced else {})}
                    async with http.post(
                        f"http://127.0.0.1:{at}/v1/chat/completions", json=body
                    ) as answer:
                        text = await answer.read()
                        assert answer.status == 200, text
                        assert (b"[DONE]" in text) is stream

                return await measure(pid, ask, count=200 if stream else 2000, clients=16)

            await asyncio.sleep(2)
            pair = await paired(
                lambda: once(floor, floor_port, stream=False),
                lambda: once(ours, port, stream=False),
                ROUNDS,
            )
            report("Chat, whole answer", *pair, "bare Starlette + aiohttp")
            pair = await paired(
                lambda: once(floor, floor_port, stream=True),
                lambda: once(ours, port, stream=True),
                ROUNDS,
            )
            report(f"Chat, stream of {CHUNKS} chunks at once", *pair, "bare Starlette + aiohttp")
            pair = await paired(
                lambda: once(floor, floor_port, stream=True, paced=True),
                lambda: once(ours, port, stream=True, paced=True),
                ROUNDS,
            )
            report(
                f"Chat, stream of {CHUNKS} chunks, a word at a time",
                *pair,
                "bare Starlette + aiohttp",
            )
            await delays(http, {"upstream": upstream, "bare proxy": floor_port, "isthmus": port})


async def delays(http: aiohttp.ClientSession, ports: dict[str, int]) -> None:
    """Show how long one client waits for a whole answer and for the first bytes of a stream, in turn."""
    waits: dict[tuple[str, bool], list[float]] = {}
    for _ in range(ASKED):
        for stream in (False, True):
            for name, at in ports.items():
                url = f"http://127.0.0.1:{at}/v1/chat/completions"
                begun = time.perf_counter()
                async with http.post(url, json={**BODY, "stream": stream}) as answer:
                    await (answer.content.readany() if stream else answer.read())
                    waits.setdefault((name, stream), []).append(time.perf_counter() - begun)
                    await answer.read()
    for stream, what in ((False, "whole answer"), (True, "first bytes of a stream")):
        print(f"Delay of one client, {what}: what is added to the upstream's own")
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


if __name__ == "__main__":
    asyncio.run(main())
