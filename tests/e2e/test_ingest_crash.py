"""Workers that are killed at every point of an ingestion, and at any moment between: each document whole and once, nothing left."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mcp_server.auth.principal import OWNER
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import load_settings
from tests.contract.fetch.site import once, says, serving
from tests.contract.ingest.papers import pdf, word
from tests.e2e.processes import LONG, environment

KILLS_WANTED, DOCUMENTS = (200, 60) if LONG else (8, 12)
CHANCE = 0.07
LEASE_SECONDS = 1.0
NOTES = "# Notes {number}\n\n" + "The isthmus {number} joins two lands. " * 90


class Workers:
    """One worker at a time; a dead one is followed by the next."""

    def __init__(self, process: subprocess.Popen[str], log: Path, calm: Path) -> None:
        self._process, self._log, self.calm = process, log, calm
        self._chance = random.Random(20261122)
        self.pids: list[int] = []
        self.shots = 0

    def points(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []

    @property
    def kills(self) -> int:
        return self.shots + len(self.points())

    def tend(self, at_work: bool) -> None:
        """Put a new worker in the place of a dead one; one that is at work is shot now and then."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for line in self.points():  # one that stops itself is as good as dead, and never wakes up
            with suppress(ProcessLookupError):
                os.kill(int(line.rpartition(" ")[2]), signal.SIGKILL)
        if at_work and not self.calm.exists() and self._chance.random() < 0.005:
            with suppress(ProcessLookupError):
                os.kill(self.pids[-1], signal.SIGKILL)
                self.shots += 1
        if self.kills >= KILLS_WANTED and not self.calm.exists():
            self.calm.touch()
        if not self.pids or not _is_alive(self.pids[-1]):
            self._process.stdin.write(f"{self._chance.getrandbits(31)} {CHANCE}\n")
            self._process.stdin.flush()
            self.pids.append(int(self._process.stdout.readline()))


@contextmanager
def fragile_workers(data_dir: Path) -> Iterator[Workers]:
    log, calm = data_dir.with_suffix(".points"), data_dir.with_suffix(".calm")
    with data_dir.with_suffix(".errors").open("w") as errors:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.e2e.fragile_ingest",
                str(log),
                str(calm),
                str(LEASE_SECONDS),
            ],
            env=environment(data_dir, AUTH="off", FETCH_ALLOW="127.0.0.1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        workers = Workers(process, log, calm)
        try:
            yield workers
        finally:
            for pid in workers.pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate(timeout=10)


@pytest.mark.timeout(1800)
async def test_each_document_is_there_whole_and_once(data_dir: Path) -> None:
    settings = load_settings(data_dir=data_dir, llm_url=("scripted:",), auth="off")
    page = b"<html><body><h1>Tides</h1><p>They rise and fall.</p></body></html>"
    async with serving(says(once(page, "Content-Type: text/html"))) as site:
        async with open_runtime(settings, concurrency=0) as runtime:
            url = f"http://127.0.0.1:{site.port}/"
            sources, changed = await prepare(runtime, url)
            with fragile_workers(data_dir) as workers:
                first = await survive(runtime, workers, sources)
                second = await survive(runtime, workers, changed)
                rounds = 2
                while workers.kills < KILLS_WANTED:
                    rounds += 1
                    await survive(runtime, workers, sources if rounds % 2 else changed)
                if rounds % 2:
                    await survive(runtime, workers, changed)
                left = [pid for pid in workers.pids if parsers_of(pid)]
            writes = await written(runtime)
            assert await orphans(runtime) == [0, 0, 0, 0]
            texts = {
                source["document"]: (
                    await runtime.services.vectors.get(OWNER, "s", source["document"])
                )
                for source in changed
            }
    print(
        f"\n{workers.kills} kills: {workers.shots} at any moment,",
        Counter(line.rsplit(" ", 1)[0] for line in workers.points()),
    )
    assert left == []
    assert first == second == len(sources)
    for source in changed:
        document = texts[source["document"]]
        if "text" in source:
            assert document["text"] == source["text"]
        assert document["chunks"] > 0
    if rounds == 2:  # each change was written once, and what stayed as it was not again
        assert writes == {
            source["document"]: 1 + (source != before)
            for source, before in zip(changed, sources, strict=True)
        }


async def prepare(runtime: Runtime, url: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the sources, and the same with every other text changed."""
    for key, body in (("paper.pdf", pdf(["A page of a paper."] * 3)), ("book.docx", word())):
        encoded = base64.b64encode(body).decode()
        await runtime.services.objects.put(OWNER, "papers", key, base64=encoded)
    sources: list[dict[str, Any]] = [
        {"object": "papers/paper.pdf"},
        {"object": "papers/book.docx"},
        {"url": url},
    ]
    sources += [
        {"text": NOTES.format(number=number), "content_type": "text/markdown"}
        for number in range(DOCUMENTS - len(sources))
    ]
    sources = [source | {"document": f"d{number}"} for number, source in enumerate(sources)]
    changed = [
        source | {"text": source["text"] + "changed"} if "text" in source and number % 2 else source
        for number, source in enumerate(sources)
    ]
    return sources, changed


async def survive(runtime: Runtime, workers: Workers, sources: list[dict[str, Any]]) -> int:
    """Ingest with workers that die; return how many documents were added."""
    arguments = {"store": "s", "sources": sources}
    run = (await runtime.services.runs.start_tool(OWNER, "vector_ingest", arguments))["run"]
    deadline = time.monotonic() + (1500 if LONG else 200)
    item = await runtime.services.runs.get(OWNER, run)
    shot = 0  # the attempt whose worker is dead
    while time.monotonic() < deadline:
        before = workers.shots
        workers.tend(item["status"] == "running" and item["attempt"] > shot)
        shot = item["attempt"] if workers.shots > before else shot
        item = await runtime.services.runs.get(OWNER, run)
        if item["status"] not in {"queued", "running"}:
            assert item["status"] == "completed", item["error"]
            assert item["output"]["structured"] is not None, item["output"]["text"]
            result = item["output"]["structured"]
            assert result["failed"] == 0, result["documents"]
            return result["added"]
        await asyncio.sleep(0.05)
    raise AssertionError("the run did not end")


async def written(runtime: Runtime) -> dict[str, int]:
    query = text("select uri from journal where uri like 'vector://s/%' and verb = 'write'")
    async with runtime.engines.control.connect() as connection:
        rows = (await connection.execute(query)).scalars()
        return dict(Counter(uri.removeprefix("vector://s/") for uri in rows))


async def orphans(runtime: Runtime) -> list[int]:
    """Count what should not be: parts without their document, documents without their parts."""
    queries = (
        "select count(*) from chunks c where not exists (select from documents d where (d.store, d.document) = (c.store, c.document))",
        "select count(*) from chunk_vectors v where not exists (select from chunks c where c.id = v.id)",
        "select count(*) from chunks c where not exists (select from chunk_vectors v where v.id = c.id)",
        "select count(*) from documents d where chunks <> (select count(*) from chunks c where (d.store, d.document) = (c.store, c.document))",
    )
    async with runtime.engines.control.connect() as connection:
        return [(await connection.execute(text(query))).scalar_one() for query in queries]


def parsers_of(worker: int) -> list[int]:
    """Return the processes that still read documents for a worker that is gone: each leads a session."""
    deadline = time.monotonic() + 20
    while (found := _in_session(worker)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _in_session(leader: int) -> list[int]:
    if _is_alive(leader):
        return []
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
