"""Writers of every kind against the stack's door: what was acknowledged to them, and what went wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.e2e.processes import LONG

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "topology-test", "version": "1"},
}
KINDS = ("sql", "kv", "object", "vector", "run", "chat")
# What a client may be told while something is down: all of it says "try again".
PATIENT = ("unavailable:", "timeout:", "limit_exceeded:")
# What nobody expected is a defect, whatever else is going on.
UNFORESEEN = "unexpectedly"
# JSON-RPC codes with which the door and the servers say so.
PATIENT_CODES = (-32603, -32029)
PAUSE_SECONDS = 0.02 if LONG else 0.3


class Refused(Exception):
    """A clean refusal: the client tries again."""


@dataclass
class Caller:
    """A client of the door, in the 2026-07-28 era and of the OpenAI face."""

    http: aiohttp.ClientSession
    url: str

    async def tool(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool.

        Raises:
            Refused: try again; aiohttp.ClientError, OSError, TimeoutError: no answer.
            AssertionError: the answer is neither.
        """
        params = {"name": name, "arguments": arguments, "_meta": META}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": name,
        }
        async with self.http.post(f"{self.url}/mcp", json=message, headers=headers) as answer:
            body = _json(await answer.read(), answer)
        if "error" in body:
            code, text = body["error"]["code"], body["error"]["message"]
            if code in PATIENT_CODES and text.startswith(PATIENT) and UNFORESEEN not in text:
                raise Refused(text)
            raise AssertionError(f"{name}: {text}")
        result = body["result"]
        if result.get("isError"):
            text = result["content"][0]["text"]
            if text.startswith(PATIENT) and UNFORESEEN not in text:
                raise Refused(text)
            raise AssertionError(f"{name}: {text}")
        return result["structuredContent"]

    async def chat(self, text: str, tool: dict[str, Any]) -> str:
        """Ask the model, which calls the tool; raises as `tool` does."""
        body = {
            "model": "default",
            "messages": [{"role": "user", "content": text}],
            "tools": [tool],
        }
        async with self.http.post(f"{self.url}/v1/chat/completions", json=body) as answer:
            told = _json(await answer.read(), answer)
            if answer.status in {429, 500, 502, 503, 504}:
                assert told["error"]["code"] in {"unavailable", "timeout", "rate_limit_exceeded"}
                raise Refused(told["error"]["message"])
            assert answer.status == 200, told
        said = told["choices"][0]["message"]["content"]
        if (
            said.startswith(PATIENT) and UNFORESEEN not in said
        ):  # the model repeats what its tool said
            raise Refused(said)
        return said


def _json(data: bytes, answer: aiohttp.ClientResponse) -> dict[str, Any]:
    # What takes long is answered as a stream: comments, then one event.
    events = answer.headers.get("Content-Type", "").startswith("text/event-stream")
    lines = data.splitlines() if events else [b"data: " + data]
    try:
        return json.loads([line for line in lines if line.startswith(b"data: ")][-1][6:])
    except (ValueError, IndexError):
        raise AssertionError(f"{answer.status} without JSON: {data[:200]!r}") from None


def body_of(number: int) -> str:
    """An object's text, known from its number alone."""
    return (hashlib.sha256(str(number).encode()).hexdigest() + "\n") * 200


@dataclass
class Load:
    """What was written, tried and acknowledged; each kind counts for itself."""

    caller: Caller
    kinds: tuple[str, ...] = KINDS
    acknowledged: dict[str, set[int]] = field(
        default_factory=lambda: {kind: set() for kind in KINDS}
    )
    runs: dict[int, str] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    over: bool = False
    _next: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        return {kind: len(done) for kind, done in self.acknowledged.items()}

    async def write(self, kind: str) -> None:
        """Write until told to stop; what was not acknowledged is written again, as clients do."""
        one: Callable[[int], Awaitable[None]] = getattr(self, f"_{kind}")
        while not self.over:
            self._next[kind] += 1
            number = self._next[kind]
            while not self.over and not await self._attempt(kind, one, number):
                await asyncio.sleep(0.1)
            await asyncio.sleep(PAUSE_SECONDS)

    async def until_each_wrote(self, more: int, seconds: float) -> dict[str, float]:
        """Wait until every kind has so many acknowledged writes more; return how long each took."""
        begun, before = time.monotonic(), self.counts()
        took: dict[str, float] = {}
        while len(took) < len(self.kinds):
            for kind, count in self.counts().items():
                if kind in self.kinds and kind not in took and count >= before[kind] + more:
                    took[kind] = time.monotonic() - begun
            waited = time.monotonic() - begun
            missing = sorted(set(self.kinds) - set(took))
            assert waited < seconds, (
                f"no writes of {missing} for {waited:.0f} s: {self.refused} {self.errors[:3]}"
            )
            await asyncio.sleep(0.02)
        return took

    async def _attempt(self, kind: str, one: Callable[[int], Awaitable[None]], number: int) -> bool:
        try:
            await one(number)
        except Refused as refusal:
            self.refused[f"{kind}: {str(refusal)[:90]}"] += 1
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.refused[f"{kind}: {type(error).__name__}"] += 1
        except AssertionError as error:
            self.errors.append(f"{kind} {number}: {error}")
            await asyncio.sleep(1)
        else:
            self.acknowledged[kind].add(number)
            return True
        return False

    async def _sql(self, number: int) -> None:
        sql = "insert into topology values ($1, $2) on conflict (n) do nothing"
        await self.caller.tool("sql_execute", {"sql": sql, "params": [number, f"row {number}"]})

    async def _kv(self, number: int) -> None:
        arguments = {"namespace": "topology", "key": f"k{number}", "value": {"n": number}}
        await self.caller.tool("kv_set", arguments)

    async def _object(self, number: int) -> None:
        arguments = {"bucket": "topology", "key": f"o{number}", "text": body_of(number)}
        await self.caller.tool("object_put", arguments)

    async def _vector(self, number: int) -> None:
        arguments = {"store": "topology", "document": f"d{number}", "text": f"Fact {number}."}
        await self.caller.tool("vector_add", arguments)

    async def _run(self, number: int) -> None:
        arguments = {"agent": "echo", "input": f"run {number}", "wait_seconds": 0}
        started = await self.caller.tool("agent_run", arguments)
        self.runs[number] = started["run"]

    async def _chat(self, number: int) -> None:
        """The model calls `kv_set` of this server, with arguments from the tool's own schema."""
        tool = {"type": "mcp", "server_label": "isthmus", "allowed_tools": ["kv_set"]}
        answer = await self.caller.chat(f"chat {number}", tool)
        assert f"chat {number}" in answer, answer


@asynccontextmanager
async def calling(url: str, headers: dict[str, str]) -> AsyncGenerator[Caller]:
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        yield Caller(http, url)


async def prepare(caller: Caller) -> None:
    """Make what the writers write to."""
    sql = "create table topology (n bigint primary key, t text)"
    await caller.tool("sql_execute", {"sql": sql})
    await caller.tool("agent_save", {"name": "echo", "instructions": "Repeat."})


@asynccontextmanager
async def writing(load: Load, writers: int = 1) -> AsyncGenerator[None]:
    """Write in the background; what is under way at the end is waited for."""
    tasks = [asyncio.create_task(load.write(kind)) for kind in load.kinds for _ in range(writers)]
    try:
        yield
    finally:
        load.over = True
        await asyncio.gather(*tasks)


async def lost(load: Load, seconds: float) -> dict[str, list[int]]:
    """Return what was acknowledged and is not there, by kind; runs get so long to end."""
    caller = load.caller
    found = {"sql": await _rows(caller)}
    keys = await _pages(caller, "kv_list", {"namespace": "topology"})
    found["kv"] = {item["value"]["n"] for item in keys}
    found["object"] = set()
    for item in await _pages(caller, "object_list", {"bucket": "topology"}):
        whole = await caller.tool("object_get", {"bucket": "topology", "key": item["key"]})
        number = int(item["key"][1:])
        if whole["text"] == body_of(number):
            found["object"].add(number)
    found["vector"] = await _documents(load)
    found["run"] = await _ended(load, seconds)
    said = await _pages(caller, "kv_list", {"prefix": "chat "})
    found["chat"] = {int(item["key"].removeprefix("chat ")) for item in said}
    return {
        kind: sorted(done - found[kind])
        for kind, done in load.acknowledged.items()
        if done - found[kind]
    }


async def _rows(caller: Caller) -> set[int]:
    """Return the numbers of the rows that are whole."""
    sql = "select n, t from topology where n > $1 order by n limit 1000"
    found, last = set[int](), 0
    while True:
        arguments = {"sql": sql, "params": [last], "max_rows": 1000}
        rows = (await caller.tool("sql_query", arguments))["rows"]
        found |= {n for n, t in rows if t == f"row {n}"}
        if not rows:
            return found
        last = rows[-1][0]


async def _documents(load: Load) -> set[int]:
    """Return the numbers of the documents that are listed, and found by the vector engine."""
    listed = await _pages(load.caller, "vector_list", {"store": "topology"})
    found = {int(item["document"][1:]) for item in listed}
    for number in sorted(found):
        query = {"store": "topology", "query": f"Fact {number}", "mode": "text", "k": 1}
        hits = (await load.caller.tool("vector_search", query))["results"]
        if not hits or hits[0]["document"] != f"d{number}":
            found.discard(number)
    return found


async def _ended(load: Load, seconds: float) -> set[int]:
    """Return the numbers of the runs that completed with their answer."""
    deadline, ended = time.monotonic() + seconds, set[int]()
    while time.monotonic() < deadline and len(ended) < len(load.runs):
        for number, run in load.runs.items():
            if number in ended:
                continue
            shown = await load.caller.tool("run_get", {"run": run})
            if shown["status"] == "completed" and shown["output"] == f"run {number}":
                ended.add(number)
            elif shown["status"] not in {"queued", "running", "completed"}:
                load.errors.append(f"run {number} is {shown['status']}: {shown.get('error')}")
        await asyncio.sleep(0.2)
    return ended


async def _pages(caller: Caller, tool: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = await caller.tool(tool, {**arguments, "limit": 1000, "cursor": cursor})
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items
