"""Tools whose every step, or every call of a run, adds one to a counter in a store, so that one done twice shows."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

from mcp_server.errors import NotFound
from mcp_server.plugins import Call, tool
from mcp_server.runs.fence import parse_key

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


@tool()
async def tally(call: Call, kind: Literal["sql", "kv", "object", "vector"]) -> str:
    """Count this call, which an agent's run makes."""
    await _count(call, kind, None, call.key)
    return f"counted in {kind}"


@tool()
async def sign(call: Call) -> str:
    """Count this call, too; a person must allow it."""
    await _count(call, "sql", None, call.key)
    return "signed"


async def _count(call: Call, kind: str, step: str | None, key: str | None) -> None:
    """Add one to the counter of the step, else of the call: read, then write what was read and one more."""
    assert key is not None
    known = parse_key(key)
    assert known is not None
    services, principal, run, attempt = call.services, call.principal, known.run, known.attempt
    step = step or known.key.partition("/")[2]
    name = f"{run}/{step}"
    match kind:
        case "sql":
            await services.sql.execute(principal, COUNT, [run, step, attempt], key=key)
        case "kv":
            before = await _present(services.kv.get(principal, "done", name))
            value: list[int] = before["value"] if before else []
            await services.kv.set(principal, "done", name, [*value, attempt], idempotency_key=key)
        case "object":
            found = await _present(services.objects.get(principal, "done", name))
            text = f"{found['text'] if found else ''}{attempt};"
            await services.objects.put(principal, "done", name, text=text, idempotency_key=key)
        case _:
            found = await _present(services.vectors.get(principal, "done", name))
            text = f"{found['text'] if found else ''}{attempt};"
            await services.vectors.add(principal, "done", text, document=name, idempotency_key=key)


async def _present(reading: Any) -> Any | None:
    try:
        return await reading
    except NotFound:
        return None
