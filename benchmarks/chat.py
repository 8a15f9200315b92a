"""CPU of chat pass-through, whole and streamed, beside a bare proxy over the same upstream.

uv run --group dev python benchmarks/chat.py
"""

from __future__ import annotations

import asyncio
import tempfile
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

            async def once(pid: int, at: int, *, stream: bool) -> Figure:
                async def ask(_: int) -> None:
                    body = {**BODY, "stream": stream}
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
            report(f"Chat, stream of {CHUNKS} chunks", *pair, "bare Starlette + aiohttp")


if __name__ == "__main__":
    asyncio.run(main())
