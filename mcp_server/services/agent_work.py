"""The work of an agent's run: its loop with the rights of its grant, and what counts as its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

from mcp_server.agents.definitions import AgentDefinition
from mcp_server.agents.work import ModelFor, perform
from mcp_server.auth.principal import Principal
from mcp_server.errors import Unauthenticated, Unavailable
from mcp_server.runs.record import Event, Outcome, Run
from mcp_server.services.grants import Grant, GrantedToolbox, ScopesNow, ToolboxFor

# A dead key stops its runs within a second.
WATCH_SECONDS = 0.5

_STOPPED = {
    "turns": "its limit of {turns} turns was used up",
    "seconds": "its limit of {seconds:g} seconds passed",
    "tool_calls": "its limit of {tool_calls} tool calls was used up",
    "output": "the model wrote more text than a run may hold",
    "invalid_calls": "the model kept calling tools that do not exist or with malformed arguments",
}


@dataclass(frozen=True, slots=True)
class AgentWork:
    """Executes runs of kind `agent`."""

    model_for: ModelFor
    toolbox_for: ToolboxFor
    scopes_now: ScopesNow

    async def __call__(self, run: Run, emit: Callable[[Event], None]) -> Outcome:
        """Run the agent's loop.

        Raises:
            AppError: the model failed, or the key that started the run is dead.
        """
        fields = AgentDefinition.model_fields
        definition = AgentDefinition.model_validate(
            {name: value for name, value in run.definition.items() if name in fields}
        )
        grant = Grant(Principal(run.tenant, run.subject, run.grant, run.key_id), self.scopes_now)
        last: Event = {}
        performing = perform(
            definition,
            run.input["messages"],
            run.input["options"],
            model_for=self.model_for,
            toolbox=GrantedToolbox(grant, definition.tools, self.toolbox_for),
            steps=run.id,
        )
        async with _while_granted(grant), aclosing(performing) as events:
            async for event in events:
                if event["type"] == "message":
                    last = event
                    break
                emit(event)
                if event["type"] == "turn_finished":
                    await grant.now()
        return _outcome(definition, last)


@asynccontextmanager
async def _while_granted(grant: Grant) -> AsyncGenerator[None]:
    """End the body, in the middle of a model's answer or a tool's work, when the run's key dies.

    Raises:
        Unauthenticated: it died.
    """
    dead: list[Unauthenticated] = []

    async def watch(scope: anyio.CancelScope) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await grant.now()
            except Unauthenticated as error:
                dead.append(error)
                scope.cancel()
                return
            except Unavailable:
                continue  # the next tool call or turn asks again

    with anyio.CancelScope() as scope:
        watcher = asyncio.create_task(watch(scope), name="grant-watch")
        try:
            yield
        finally:
            watcher.cancel()
    if dead:
        raise dead[0]


def _outcome(definition: AgentDefinition, last: Event) -> Outcome:
    message: dict[str, Any] = last["message"]
    error = None
    if last["stopped"] is not None:
        reason = _STOPPED[last["stopped"]].format(**definition.limits.model_dump())
        error = {"code": "limit_exceeded", "message": f"the run was stopped: {reason}"}
    return Outcome(
        status="completed" if error is None else "failed",
        output=message.get("content"),
        error=error,
        usage=last["usage"],
        events=[last],
    )
