"""Works that do a known thing slowly and count in rows how often they did it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.errors import Unavailable
from mcp_server.runs.context import RunContext, Work
from mcp_server.runs.outage import through_outage
from mcp_server.runs.record import Outcome

TABLE = "create table if not exists trials (run text, step text, epoch text)"

# One that got lost with its answer is not noted twice.
NOTE = text("""
    insert into trials select :run, :step, :key
    where not exists (select from trials where epoch = :key)
""")


class Scripted:
    """Each method is a work; its run's input says how long it takes."""

    def __init__(self, control: AsyncEngine) -> None:
        self._control = control

    def works(self, suffix: str) -> Mapping[str, Work]:
        """Every work under a kind of its own: other tests' workers share the database."""
        names = ("steps", "hang", "ask", "flaky", "broken", "talk", "once", "huge", "named")
        return {f"{name}-{suffix}": getattr(self, name) for name in names}

    async def count(self, context: RunContext, step: str, key: str = "") -> None:
        """Note that a step was done, without heeding its key: a repetition shows."""
        values = {"run": context.run.id, "step": step, "key": f"{key}#{uuid.uuid4().hex}"}

        async def note() -> None:
            async with self._control.begin() as tx:
                await tx.execute(NOTE, values)

        await through_outage(note)

    async def steps(self, context: RunContext) -> Outcome:
        """Do `count` steps of `seconds` each, telling of each."""
        given = context.run.input
        results: list[Any] = []
        for number in range(given["count"]):
            step = f"step/{number}"

            async def do(key: str, step: str = step) -> str:
                await self.count(context, step, key)
                await asyncio.sleep(given["seconds"])
                return f"did {step}"

            results.append(await context.step(step, do))
            context.emit({"type": "done", "step": step})
        return Outcome(status="completed", output=results)

    async def once(self, context: RunContext) -> Outcome:
        """Do one slow step that cannot be repeated."""

        async def do(key: str) -> str:
            await self.count(context, "once", key)
            await asyncio.sleep(context.run.input["seconds"])
            return "done"

        again = context.run.input.get("retry_unsure", False)
        done = await context.step("once", do, repeatable=False, retry_unsure=again)
        return Outcome(status="completed", output=done)

    async def hang(self, context: RunContext) -> Outcome:
        """Tell something, then never end."""
        context.emit({"type": "text", "text": "begun"})
        context.emit({"type": "text", "text": " and"})
        await self.count(context, "hang")
        await asyncio.Event().wait()
        raise AssertionError

    async def ask(self, context: RunContext) -> Outcome:
        """Ask, whatever is caught around it, and return the answer."""

        async def before(_: str) -> str:
            await self.count(context, "before")
            return "before"

        await context.step("before", before)
        try:
            answer = await context.ask("ask/1", message="which?", schema={"type": "string"})
        except Exception:  # noqa: BLE001  a work may be careless
            answer = "swallowed"
        return Outcome(status="completed", output=answer)

    async def flaky(self, context: RunContext) -> Outcome:
        """Fail `failures` times with an error that may pass."""
        await self.count(context, "flaky")
        if context.run.retries < context.run.input["failures"]:
            raise Unavailable("not yet")
        return Outcome(status="completed", output=context.run.retries)

    async def broken(self, _: RunContext) -> Outcome:
        raise KeyError("a secret")

    async def talk(self, context: RunContext) -> Outcome:
        """Tell `count` events, one every `seconds`."""
        for number in range(context.run.input["count"]):
            context.emit({"type": "text", "text": f"{number} "})
            await asyncio.sleep(context.run.input["seconds"])
        return Outcome(status="completed")

    async def huge(self, context: RunContext) -> Outcome:
        """Tell and return far too much, and what no text column takes."""

        async def do(_: str) -> dict[str, object]:
            return {"text": "x" * 50_000_000, "odd": "\0\ud800", "number": float("nan")}

        for _ in range(5):
            context.emit({"type": "blob", "body": "y" * 3_000_000, "odd": "\0\ud800"})
        done = await context.step("huge", do)
        return Outcome(status="completed", output={"size": len(done["text"]), "all": done})

    async def named(self, context: RunContext) -> Outcome:
        """Do a step of a given name."""

        async def do(key: str) -> str:
            return key

        return Outcome(status="completed", output=await context.step(context.run.input["name"], do))
