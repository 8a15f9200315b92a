"""Documents per second: a run of `vector_ingest` beside reading, cutting and embedding alone, in one process.

uv run --group dev python benchmarks/ingest.py
"""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mcp_server.auth.principal import OWNER
from mcp_server.ingest import formats
from mcp_server.ingest.chunk import chunk
from mcp_server.ingest.embed import open_embedder
from mcp_server.ingest.parsed import Parsed
from mcp_server.ingest.source import Source
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import load_settings
from tests.contract.ingest.papers import pdf

ROUNDS, DOCUMENTS = 3, 40
WORDS = [
    "the",
    "isthmus",
    "joins",
    "two",
    "lands",
    "and",
    "parts",
    "two",
    "seas",
    "where",
    "tides",
    "rise",
    "at",
    "other",
    "hours",
]
PARAGRAPHS = 12
EMBED_BATCH = 32

Body = tuple[str, str, bytes]  # format, end of the name, bytes


def documents(kind: str, round_: int) -> list[Body]:
    """Return documents of about 700 words, all of them different."""
    made: list[Body] = []
    for number in range(DOCUMENTS):
        lines = [
            " ".join(WORDS[(start + 3 * step) % len(WORDS)] for step in range(60))
            + f" {round_} {number}."
            for start in range(PARAGRAPHS)
        ]
        if kind == "markdown":
            made.append((kind, "md", f"# Page {number}\n\n".encode() + "\n\n".join(lines).encode()))
        elif kind == "html":
            text = "".join(f"<p>{line}</p>" for line in lines)
            made.append(
                (kind, "html", f"<html><body><h1>Page {number}</h1>{text}</body></html>".encode())
            )
        else:
            made.append((kind, "pdf", pdf(lines)))
    return made


async def bare(bodies: list[Body]) -> None:
    """Do what cannot be left out: read each document, cut it, embed its chunks."""

    def read(body: Body) -> Parsed:
        return formats.formats()[body[0]].parse(Source(body[2]))

    async with open_embedder(load_settings(data_dir=Path("unused"))) as embedder:
        for body in bodies:
            parsed = await asyncio.to_thread(read, body)
            texts = [
                f"{span.context} {parsed.text[span.start : span.end]}"
                for span in chunk(parsed.text, parsed.sections)
            ]
            for first in range(0, len(texts), EMBED_BATCH):
                await embedder.embed(texts[first : first + EMBED_BATCH])


async def ours(runtime: Runtime, store: str, bodies: list[Body]) -> None:
    """Ingest objects as one run, as a caller does."""
    sources = [
        {"object": f"bench/{store}/{number}.{body[1]}"} for number, body in enumerate(bodies)
    ]
    result = await runtime.bus.call(OWNER, "vector_ingest", {"store": store, "sources": sources})
    assert result.structured is not None, result.text
    assert result.structured["added"] == len(bodies), result.structured


async def timed(work: Callable[[], Awaitable[None]]) -> float:
    begun = time.perf_counter()
    await work()
    return DOCUMENTS / (time.perf_counter() - begun)


async def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        settings = load_settings(
            data_dir=Path(scratch) / "data", llm_url=("scripted:",), auth="off"
        )
        async with open_runtime(settings, concurrency=2) as runtime:
            await bare(documents("markdown", -1)[:2])  # loads the model
            for kind in ("markdown", "html", "pdf"):
                rates: list[tuple[float, float]] = []
                for round_ in range(ROUNDS):
                    bodies, store = documents(kind, round_), f"{kind}-{round_}"
                    for number, (_, end, body) in enumerate(bodies):
                        await runtime.services.objects.put(
                            OWNER,
                            "bench",
                            f"{store}/{number}.{end}",
                            base64=base64.b64encode(body).decode(),
                        )
                    floor = await timed(lambda bodies=bodies: bare(bodies))
                    rates.append(
                        (floor, await timed(lambda s=store, b=bodies: ours(runtime, s, b)))
                    )
                floor, mine = sorted(rates, key=lambda pair: pair[1] / pair[0])[ROUNDS // 2]
                print(
                    f"{kind:9} {mine:6.1f} documents/s as a run, {floor:6.1f} bare: ratio {mine / floor:.2f}"
                )


if __name__ == "__main__":
    asyncio.run(main())
