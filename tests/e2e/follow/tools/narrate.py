"""Work that tells a lot while it lasts, and lasts until it is told that it may end."""

from __future__ import annotations

import asyncio

from typing_extensions import TypedDict

from mcp_server.errors import NotFound
from mcp_server.plugins import Call, tool

NAMESPACE = "narrated"
LEAST_ROUNDS, MOST_ROUNDS = 30, 5000
WORDS = 8


class Told(TypedDict):
    rounds: int


@tool(long=True)
async def narrate(call: Call, topic: str) -> Told:
    """Tell words, calls and progress, round after round, until the value `topic` stands in `narrated`."""
    for number in range(MOST_ROUNDS):

        async def do(key: str | None, number: int = number) -> bool:
            return await _round(call, topic, number, key)

        if await call.step(f"round/{number}", do) and number >= LEAST_ROUNDS:
            return Told(rounds=number + 1)
    raise AssertionError("nobody said that it is enough")


@tool(verb="read", read_only=True, destructive=False)
async def pace(call: Call, topic: str | None = None) -> str:
    """Take a moment; with a `topic`, until its value stands in `narrated`."""
    await asyncio.sleep(0.05)
    while topic is not None and not await _enough(call, topic):
        await asyncio.sleep(0.1)
    return "it is time"


async def _round(call: Call, topic: str, number: int, key: str | None) -> bool:
    assert call.run is not None
    for word in range(WORDS):
        call.run.emit({"type": "text", "text": f" wörd-{number}.{word} ☃", "turn": number})
        await asyncio.sleep(0.015)
    call.run.emit({"type": "tool_started", "name": "kv_set", "arguments": {"n": number}})
    kv, name = call.services.kv, f"{topic}/{number}"
    await kv.set(call.principal, NAMESPACE, name, number, idempotency_key=key)
    call.run.emit({"type": "tool_finished", "name": "kv_set", "text": "☃" * (number % 50)})
    await call.progress(number + 1, None, f"round {number}")
    return await _enough(call, topic)


async def _enough(call: Call, topic: str) -> bool:
    try:
        await call.services.kv.get(call.principal, NAMESPACE, topic)
    except NotFound:
        return False
    return True
