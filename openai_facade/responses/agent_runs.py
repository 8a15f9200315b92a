"""Runs of agents as responses: read by the run's id, and gone on with by who answers what they ask."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from mcp_server.agents.events import LoopEvent
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, NotFound
from mcp_server.services.run_results import RunItem
from openai_facade.agent_chat import agent_goes_on
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.responses.agent_stream import agent_response
from openai_facade.translate.mcp_opt_in import LABEL
from openai_facade.translate.response_items import kept_items
from openai_facade.translate.response_object import Item, Response
from openai_facade.translate.run_events import ApprovalAsked, approval_asked
from openai_facade.translate.run_ids import run_of, run_of_approval
from openai_facade.wire.faults import InvalidRequest, invalid, unsupported

_AGENT_KIND = "agent"


@dataclass(frozen=True, slots=True)
class Continued:
    """An agent's run whose question a request answers.

    `question` is the open request's id, None if it is not open any more; `items` are the approval
    request and its answer; `previous` is the response that asked, if it is stored.
    """

    run: str
    question: str | None
    approved: bool
    reason: str
    after: int
    items: list[Item]
    previous: str | None

    async def answer(self, facade: Facade, principal: Principal) -> None:
        """Answer the run.

        Raises:
            Conflict: somebody else was first.
        """
        if self.question is None:
            raise Conflict(
                f"run {self.run} does not wait for this approval: the first answer counts"
            )
        said: dict[str, Any] = {"approved": self.approved}
        if self.reason:
            said["reason"] = self.reason
        await facade.services.runs.input(principal, self.run, said, self.question)


async def answered_run(
    facade: Facade, principal: Principal, body: dict[str, Any], model: str
) -> Continued | None:
    """Give the agent's run whose question a checked body answers, None if it answers none.

    Raises:
        InvalidRequest: it says more than the answer, or its model is not the run's agent.
        NotFound: there is no such run in this tenant.
    """
    given: list[Item] = body["input"] if isinstance(body.get("input"), list) else []
    answers = [item for item in given if item.get("type") == "mcp_approval_response"]
    if not model.startswith(AGENT_PREFIX) or not answers:
        return None
    if len(given) != 1:
        raise unsupported(
            "input", "what an agent asks is answered alone: send one mcp_approval_response."
        )
    (item,) = kept_items(answers)
    request = item["approval_request_id"]
    place = "input[0].approval_request_id"
    run = await _run(facade, principal, run_of_approval(request))
    if run is None:
        raise invalid(place, f"{request[:80]!r} was not asked.")
    if f"{AGENT_PREFIX}{run['agent']}" != model:
        raise invalid("model", f"this approval was asked by {AGENT_PREFIX}{run['agent']}.")
    if body.get("tools"):
        raise unsupported("tools", "an agent has the tools of its definition; leave it out.")
    previous = await _previous(facade, principal, body, run)
    asked = _asked(run)
    open_now = asked is not None and asked["id"] == request and run["request"] is not None
    return Continued(
        run=run["run"],
        question=run["request"]["id"] if open_now and run["request"] is not None else None,
        approved=item["approve"],
        reason=item.get("reason") or "",
        after=run["last_event"],
        items=[*([asked] if asked is not None and open_now else []), item],
        previous=previous,
    )


def continue_run(
    facade: Facade, principal: Principal, continued: Continued
) -> AsyncGenerator[LoopEvent | ApprovalAsked, None]:
    """Give what the run tells from its answer on."""
    return agent_goes_on(facade, principal, continued.run, continued.after)


async def agent_run_of(facade: Facade, principal: Principal, response: str) -> RunItem | None:
    """Give the run of an agent that a response id names, None if there is none."""
    return await _run(facade, principal, run_of(response))


async def seen_as_response(facade: Facade, principal: Principal, response: str) -> Response | None:
    """Give the run of an agent as a response, None if there is none of this id."""
    run = await agent_run_of(facade, principal, response)
    return None if run is None else await agent_response(facade, principal, run)


async def cancelled_run(facade: Facade, principal: Principal, response: str) -> Response | None:
    """Cancel the run of an agent that a response id names; gives it as it is then, None if there is none."""
    run = await agent_run_of(facade, principal, response)
    if run is None:
        return None
    await facade.services.runs.cancel(principal, run["run"])
    return await seen_as_response(facade, principal, response)


def _asked(run: RunItem) -> Item | None:
    request = run["request"]
    asked = None if request is None else approval_asked(run["run"], request)
    if asked is None:
        return None
    return {
        "id": asked.id,
        "type": "mcp_approval_request",
        "server_label": LABEL,
        "name": asked.name,
        "arguments": asked.arguments,
    }


async def _run(facade: Facade, principal: Principal, run: str | None) -> RunItem | None:
    if run is None:
        return None
    try:
        found = await facade.services.runs.get(principal, run)
    except (NotFound, Forbidden):  # to whoever may read no runs, there is none
        return None
    return found if found["kind"] == _AGENT_KIND else None


async def _previous(
    facade: Facade, principal: Principal, body: dict[str, Any], run: RunItem
) -> str | None:
    previous = body.get("previous_response_id")
    if previous is None or run_of(previous) == run["run"]:
        return None
    try:
        return (await facade.services.responses.get(principal, previous)).id
    except NotFound as error:
        raise InvalidRequest(
            f"Previous response with id '{previous[:80]}' not found.",
            param="previous_response_id",
            wire_code="previous_response_not_found",
        ) from error
