"""Agents as functions of another agent: each call is a run of its own, started once and waited for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mcp_server.agents.asked import is_declined
from mcp_server.agents.events import Toolbox, ToolOutcome
from mcp_server.agents.previews import Previewing
from mcp_server.agents.variables import required_variables, variable_schemas
from mcp_server.errors import Conflict, InvalidInput
from mcp_server.function_names import agent_function
from mcp_server.runs.context import RunContext
from mcp_server.services.agent_items import AgentItem
from mcp_server.services.grants import Grant
from mcp_server.services.patience import patiently
from mcp_server.services.run_results import RunItem
from mcp_server.services.runs import RunService


class SubAgents:
    """A toolbox and the sub-agents beside it.

    A sub-agent's run has the rights that its caller's run has at that moment, narrowed by its own
    definition. What it asks of a person, its caller asks as its own, and waits without a worker.
    """

    def __init__(
        self,
        runs: RunService,
        tools: Toolbox,
        agents: Sequence[str],
        grant: Grant,
        context: RunContext,
    ) -> None:
        self._runs = runs
        self._tools = tools
        self._agents = {agent_function(name): name for name in agents}
        self._grant = grant
        self._context = context

    async def specs(self) -> list[dict[str, Any]]:
        """Give OpenAI tool objects: the toolbox's, and of those sub-agents that may be run now.

        They are looked up, and asked for again while they cannot be.
        """
        return await patiently(self._specs)

    async def _specs(self) -> list[dict[str, Any]]:
        tools = await self._tools.specs()
        principal = await self._grant.now()
        own = {
            name: await self._runs.runnable(principal, agent)
            for name, agent in self._agents.items()
        }
        kept = [spec for spec in tools if spec["function"]["name"] not in own]
        return [*kept, *(_spec(name, found) for name, found in own.items() if found is not None)]

    async def call(self, name: str, arguments: dict[str, Any], *, key: str | None) -> ToolOutcome:
        """Ask a sub-agent and wait for its end, or call a tool.

        Raises:
            AppError: it could not be asked at all.
        """
        agent = self._agents.get(name)
        if agent is None or key is None:
            return await self._tools.call(name, arguments, key=key)
        variables = _texts(arguments)
        started = await self._runs.start_child(
            await self._grant.now(), agent, variables.pop("input"), variables, key=key
        )
        while True:
            child = await self._runs.attend(
                await self._grant.now(), started["run"], deadline=None, inside=True
            )
            if child["request"] is None:
                return _outcome(child)
            await self._pass_on(child)

    async def preview(self, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Tell what a call would do, where the toolbox can."""
        if name in self._agents or not isinstance(self._tools, Previewing):
            return None
        return await self._tools.preview(name, arguments)

    def repeatable(self, name: str) -> bool:
        """Tell whether a call made twice with one key takes effect once: a sub-agent's run begins once."""
        return name in self._agents or self._tools.repeatable(name)

    async def _pass_on(self, child: RunItem) -> None:
        """Ask what a sub-agent's run asks, and give it the answer; somebody may be faster there."""
        request = child["request"]
        assert request is not None  # noqa: S101  for the type checker: the caller has looked
        answer = await self._context.ask(
            f"child/{request['id']}",
            message=f"{child['agent']}: {request['message']}",
            schema=request["schema"],
            kind="approval" if request["kind"] == "approval" else "question",
            parts=_parts(request.get("parts")),
            call=cast("Mapping[str, str] | None", request.get("call")),
            preview=cast("Mapping[str, Any] | None", request.get("preview")),
            child={"run": child["run"], "request": request["id"]},
        )
        declined = is_declined(answer)
        try:
            await self._runs.input(
                await self._grant.now(), child["run"], answer, request["id"], declined=declined
            )
        except Conflict:  # answered there in the meantime, or by an attempt of ours before
            return


def _spec(function: str, agent: AgentItem) -> dict[str, Any]:
    said = {"type": "string", "description": "all that it needs to know; it sees nothing else"}
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {"input": said, **variable_schemas(agent["variables"])},
        "required": ["input", *required_variables(agent["variables"])],
        "additionalProperties": False,
    }
    about = agent["description"] or f"Ask the agent {agent['name']}."
    told = {"name": function, "description": about, "parameters": parameters}
    return {"type": "function", "function": told}


def _texts(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments of a call, which are texts.

    Raises:
        InvalidInput: one is not, or there is no input.
    """
    for name, value in {"input": None, **arguments}.items():
        if not isinstance(value, str) or (name == "input" and not value):
            raise InvalidInput(f"{name[:80]}: give a text", param=name[:80])
    return dict(arguments)


def _parts(parts: Mapping[str, Any] | None) -> dict[str, dict[str, Any]] | None:
    if parts is None:
        return None
    return {
        name: {"message": part["message"], "schema": part["schema"]} for name, part in parts.items()
    }


def _outcome(child: RunItem) -> ToolOutcome:
    """Tell the model what became of a sub-agent's run."""
    if child["status"] == "completed":
        return ToolOutcome(child["output"] or "", usage=child["usage"])
    error = child["error"]
    why = f": {error['code']}: {error['message']}" if error is not None else ""
    # Not as the error itself: `unavailable` would have the call made again, which finds the same run.
    text = f"failed: run {child['run']} of agent {child['agent']} {child['status']}{why}"
    return ToolOutcome(text, is_error=True, usage=child["usage"])
