"""A durable tool whose every step adds one to a counter in a store, so that a step done twice shows."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from mcp_server.errors import NotFound
from mcp_server.plugins import Call, tool

KINDS = ("sql", "kv", "object", "vector")
COUNT = "insert into done values ($1, $2, $3, clock_timestamp())"


class Done(TypedDict):
    steps: list[str]
    answer: str | None


@tool(long=True)
async def effects(call: Call, steps: int, ask: bool = False) -> Done:
    """Count `steps` steps, in SQL, key-value, objects and vectors in turn; ask in the middle if told to."""
    assert call.run is not None
    done: list[str] = []
    answer: str | None = None
    for number in range(steps):
        if ask and number == steps // 2:
            answer = await call.ask("Go on?", {"type": "string"})
        kind = KINDS[number % len(KINDS)]
        step = f"{kind}/{number}"

        async def do(key: str | None, kind: str = kind, step: str = step) -> str:
            await _count(call, kind, step, key)
            return step

        done.append(await call.step(step, do))
        await call.progress(number + 1, steps)
    return Done(steps=done, answer=answer)


async def _count(call: Call, kind: str, step: str, key: str | None) -> None:
    """Add one to the step's counter: read, then write what was read and one more."""
    assert call.run is not None
    services, principal, run = call.services, call.principal, call.run.run
    name = f"{run.id}/{step}"
    match kind:
        case "sql":
            await services.sql.execute(principal, COUNT, [run.id, step, run.attempt], key=key)
        case "kv":
            before = await _present(services.kv.get(principal, "done", name))
            value: list[int] = before["value"] if before else []
            await services.kv.set(
                principal, "done", name, [*value, run.attempt], idempotency_key=key
            )
        case "object":
            found = await _present(services.objects.get(principal, "done", name))
            text = f"{found['text'] if found else ''}{run.attempt};"
            await services.objects.put(principal, "done", name, text=text, idempotency_key=key)
        case _:
            known = await _present(services.vectors.get(principal, "done", name))
            text = f"{known['text'] if known else ''}{run.attempt};"
            await services.vectors.add(principal, "done", text, document=name, idempotency_key=key)


async def _present(reading: Any) -> Any | None:
    try:
        return await reading
    except NotFound:
        return None
