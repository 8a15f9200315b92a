"""The work of a run that makes a response: begun, or gone on with where an earlier attempt was cut off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

from mcp_server.auth.principal import Principal, acting_as
from mcp_server.bus import Bus, ToolResult, ToolSpec
from mcp_server.runs.context import RunContext
from mcp_server.runs.outage import through_outage
from mcp_server.runs.record import Event, Outcome, Status
from mcp_server.services.grants import Grant, ScopesNow
from openai_facade.facade import Facade
from openai_facade.responses.background import LAST, numbered
from openai_facade.responses.beginning import begin
from openai_facade.responses.context import Begun
from openai_facade.responses.engine import Answering
from openai_facade.responses.memory import remembering
from openai_facade.translate.response_fold import fold
from openai_facade.translate.response_object import Response

EventsOf = Callable[[str, int], Awaitable[tuple[list[Event], Status | None]]]
"""Return some of a run's events after a number, oldest first; none if there are no more."""


@dataclass(frozen=True, slots=True)
class ResponseWork:
    """Executes runs of kind `response`."""

    facade: Facade
    scopes_now: ScopesNow
    events_of: EventsOf

    async def __call__(self, context: RunContext) -> Outcome:
        """Make the response; every event that is told is numbered on from what was told before.

        Raises:
            AppError: the request fits no more, or the key that started it is dead.
        """
        run = context.run
        grant = Grant(Principal(run.tenant, run.subject, run.grant, run.key_id), self.scopes_now)
        principal = await grant.now()
        told = await self._told(run.id) if context.resumed else []
        response = fold(told) if told else dict(run.input["response"])
        number = told[-1]["sequence_number"] + 1 if told else 0
        facade = replace(self.facade, bus=cast("Bus", GrantedBus(self.facade.bus, grant)))
        body: dict[str, Any] = run.input["body"]
        with acting_as(principal):
            hidden = await self._hidden(principal, response["id"]) if told else {}
            begun = Begun(response, number, hidden)
            async with remembering(facade, principal, body, response["id"]) as memory:
                answering = await begin(facade, principal, body, memory=memory, begun=begun)
                last = await _tell(context, answering)
        return _outcome(answering, last)

    async def _hidden(self, principal: Principal, response: str) -> dict[str, dict[str, Any]]:
        stored = await self.facade.services.responses.get(principal, response)
        return stored.hidden

    async def _told(self, run: str) -> list[Event]:
        stored: list[Event] = []
        while True:
            after = stored[-1]["seq"] if stored else 0
            page, _ = await through_outage(lambda after=after: self.events_of(run, after))
            if not page:
                return numbered(stored)
            stored += page


class GrantedBus:
    """A bus whose every call is decided by the rights of that moment."""

    def __init__(self, bus: Bus, grant: Grant) -> None:
        self._bus = bus
        self._grant = grant

    async def call(self, principal: Principal, *given: Any, **named: Any) -> ToolResult:
        """Call a tool, see `Bus.call`."""
        del principal
        return await self._bus.call(await self._grant.now(), *given, **named)

    async def list_tools(self, principal: Principal) -> list[ToolSpec]:
        """Give the tools that may be called, see `Bus.list_tools`."""
        return await self._bus.list_tools(principal)

    def is_repeatable(self, tool: str) -> bool:
        """Tell whether a call made twice takes effect once, see `Bus.is_repeatable`."""
        return self._bus.is_repeatable(tool)


async def _tell(context: RunContext, answering: Answering) -> Event:
    """Tell every event but the last one, which is stored together with the run's end."""
    async with aclosing(answering.events(steps=context)) as events:
        async for event in events:
            if event["type"] in LAST and not answering.waits:
                return event
            context.emit(event)
    raise AssertionError("a response ended without its last event")


def _outcome(answering: Answering, last: Event) -> Outcome:
    failure = answering.failure
    return Outcome(
        status="completed" if failure is None else "failed",
        output=_text(answering.response),
        error=None if failure is None else {"code": failure.code, "message": failure.message},
        usage=answering.response["usage"],
        events=[last],
    )


def _text(response: Response) -> str:
    return "\n\n".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message" and item["status"] == "completed"
        for part in item["content"]
        if part["type"] == "output_text"
    )
