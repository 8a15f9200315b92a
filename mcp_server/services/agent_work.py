"""The work of an agent's run: its loop with the rights of its grant, and what counts as its outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mcp_server.agents.definitions import AgentDefinition
from mcp_server.agents.final import AnswerRules, CostOf, unknown_cost
from mcp_server.agents.models import ModelFor
from mcp_server.agents.steps import NOTHING_TOLD, Told, told_in
from mcp_server.agents.work import perform
from mcp_server.auth.principal import Principal, acting_as
from mcp_server.runs.context import RunContext
from mcp_server.runs.outage import through_outage
from mcp_server.runs.record import Event, Outcome, Run, Status
from mcp_server.services.agent_output import OutputCheck
from mcp_server.services.grants import Grant, GrantedToolbox, ScopesNow, ToolboxFor
from mcp_server.services.patience import patiently
from mcp_server.services.run_answer_check import AnswerCheck
from mcp_server.services.run_spans import RunSpans
from mcp_server.services.runs import RunService
from mcp_server.services.sub_agents import SubAgents
from mcp_server.services.turn_clock import TurnClock, TurnObserver
from mcp_server.tracing.places import standing_in

EventsOf: TypeAlias = Callable[[str, int], Awaitable[tuple[list[Event], Status | None]]]
"""Return some of a run's events after a number, oldest first; none if there are no more."""

_STOPPED = {
    "turns": "its limit of {turns} turns was used up",
    "seconds": "its limit of {seconds:g} seconds passed",
    "tool_calls": "its limit of {tool_calls} tool calls was used up",
    "output": "the model wrote more text than a run may hold",
    "invalid_calls": "the model kept calling tools that do not exist or with malformed arguments",
    "repeated_calls": "the model made the same call again and again, and it failed each time",
    "tokens": "its limit of {tokens} tokens was used up",
    "cost": "its limit of {cost:g} US dollars was used up",
    "output_invalid": "the model's answer did not fit the output schema, also when it was told why",
}


@dataclass(frozen=True, slots=True)
class AgentWork:
    """Executes runs of kind `agent`."""

    model_for: ModelFor
    toolbox_for: ToolboxFor
    scopes_now: ScopesNow
    events_of: EventsOf
    runs: RunService
    cost_of: CostOf = unknown_cost
    spans: RunSpans | None = None
    turn_observers: Sequence[TurnObserver] = ()
    check: AnswerCheck = field(default_factory=AnswerCheck)

    async def __call__(self, context: RunContext) -> Outcome:
        """Run the agent's loop, or go on with it where an earlier attempt was interrupted.

        The definition's `limits.seconds` count for this attempt: neither the time for which a run
        waits for a person nor that for which it was in nobody's hands is the agent's.

        Raises:
            AppError: the model failed, the key that started the run is dead, or an interrupted call
                must not be made again.
        """
        run = context.run
        definition = _definition(run)
        principal = Principal(run.tenant, run.subject, run.grant, run.key_id)
        grant = Grant(principal, self.scopes_now)
        await patiently(grant.now)
        last: Event = {}
        granted = GrantedToolbox(grant, definition, self.toolbox_for)
        tools = SubAgents(self.runs, granted, definition.agents, grant, context)
        calls = await self.spans.calls(tools, run) if self.spans is not None else None
        performing = perform(
            definition,
            [*await self._recalled(run, grant), *run.input["messages"]],
            run.input["options"],
            model_for=self.model_for,
            toolbox=calls or tools,
            steps=context,
            told=await self._told(run.id) if context.resumed else NOTHING_TOLD,
            answers=self._rules(definition),
        )
        watching = [TurnClock(self.turn_observers), *([calls] if calls is not None else [])]
        # What the model is asked counts for whoever started the run.
        with acting_as(principal), standing_in(calls and calls.place):
            async with aclosing(performing) as events:
                async for event in events:
                    if event["type"] == "message":
                        last = event
                        break
                    context.emit(event)
                    for each in watching:
                        each.told(event)
        # A run without calls would otherwise answer for a key that died in the meantime.
        principal = await patiently(grant.now)
        outcome = _outcome(definition, last)
        if run.conversation is not None and outcome.status == "completed":
            key = context.key("remember")
            await patiently(
                lambda: self.runs.memory.remember(principal, run, last["message"], key=key)
            )
        return outcome

    async def _recalled(self, run: Run, grant: Grant) -> list[dict[str, Any]]:
        """Return what was said in the run's conversation before."""
        conversation = run.conversation
        if conversation is None:
            return []
        principal = await grant.now()
        return await patiently(lambda: self.runs.memory.recall(principal, conversation))

    def _rules(self, definition: AgentDefinition) -> AnswerRules:
        schema = definition.output_schema
        check = OutputCheck(schema, self.check) if schema is not None else None
        return AnswerRules(check, self.cost_of)

    async def _told(self, run: str) -> Told:
        stored: list[Event] = []
        while True:
            after = stored[-1]["seq"] if stored else 0
            page, _ = await through_outage(lambda after=after: self.events_of(run, after))
            if not page:
                return told_in(stored)
            stored += page


def _definition(run: Run) -> AgentDefinition:
    """Read the definition that was stored with the run; what it tells of its version is left out."""
    fields = AgentDefinition.model_fields
    known = {name: value for name, value in run.definition.items() if name in fields}
    return AgentDefinition.model_validate(known)


def _outcome(definition: AgentDefinition, last: Event) -> Outcome:
    message: dict[str, Any] = last["message"]
    error = None
    if last["stopped"] is not None:
        reason = _STOPPED[last["stopped"]].format(**definition.limits.model_dump())
        invalid = last["stopped"] == "output_invalid"
        code = "output_invalid" if invalid else "limit_exceeded"
        error = {"code": code, "message": f"the run was stopped: {reason}"}
    return Outcome(
        status="completed" if error is None else "failed",
        output=message.get("content"),
        error=error,
        usage=last["usage"],
        events=[last],
    )
