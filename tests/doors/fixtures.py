"""What tests of the doors wait for and ask of a live server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcp_server.auth.keys import NewKey
from tests.doors.live import Live

PLUGIN = Path(__file__).parent / "plugin"


async def until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> float:
    """Wait until a condition holds and return how long that took; fails after a while."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.005)
    return time.monotonic() - begun


class Record:
    """The file in which the tool `wait` notes how it went."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def words(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return []

    @property
    def arguments(self) -> dict[str, Any]:
        return {"record": str(self.path)}

    async def started(self, seconds: float = 10.0) -> None:
        await until(lambda: "started" in self.words, seconds, "the tool starts")

    async def cancelled(self, seconds: float = 3.0) -> float:
        waited = await until(lambda: len(self.words) > 1, seconds, f"the tool ends: {self.words}")
        assert self.words == ["started", "cancelled"]
        return waited


async def make_key(live: Live, *scopes: str, tenant: str = "default", **more: Any) -> NewKey:
    return await live.runtime.services.keys.create("test", tenant=tenant, scopes=scopes, **more)
