"""Runs of agents as responses: read by the run's id, and gone on with by who answers what they ask."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from mcp_server.agents.events import LoopEvent
from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound
from mcp_server.services.run_results import RunItem
from openai_facade.agent_chat import agent_goes_on
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.responses.agent_stream import agent_response
from openai_facade.run_answers import RunAnswer, agent_run, answered_call, require_agent
from openai_facade.translate.mcp_opt_in import LABEL
from openai_facade.translate.response_items import kept_items
from openai_facade.translate.response_object import Item, Response
from openai_facade.translate.run_events import ApprovalAsked, Asked, asked_in_response
from openai_facade.translate.run_ids import item_of_call, run_of, run_of_approval, run_of_call
from openai_facade.wire.faults import InvalidRequest, invalid, unsupported


@dataclass(frozen=True, slots=True)
class Continued:
    """An agent's run whose question a request answers.

    `items` are what was asked, if that is still open, and its answer; `previous` is the response that
    asked, if it is stored.
    """

    said: RunAnswer
    items: list[Item]
    previous: str | None

    @property
    def run(self) -> str:
        """The run that goes on."""
        return self.said.run

    async def answer(self, facade: Facade, principal: Principal) -> None:
        """Answer the run.

        Raises:
            Conflict: somebody else was first. InvalidInput: it is no answer to the question.
        """
        await self.said.give(facade, principal)


async def answered_run(
    facade: Facade, principal: Principal, body: dict[str, Any], model: str
) -> Continued | None:
    """Give the agent's run whose question a checked body answers, None if it answers none.

    Raises:
        InvalidRequest: it says more than the answer, or its model is not the run's agent.
    """
    given: list[Item] = body["input"] if isinstance(body.get("input"), list) else []
    if not model.startswith(AGENT_PREFIX):
        return None
    answers = [item for item in given if _answers_a_run(item)]
    if not answers:
        return None
    if len(given) != 1 and not _follows_its_call(given):
        raise unsupported(
            "input", f"what an agent asks is answered alone: send one {answers[0]['type']}."
        )
    (item,) = kept_items(answers)
    place = f"input[{len(given) - 1}]."
    approves = item["type"] == "mcp_approval_response"
    read = _approval if approves else _output
    run, said = await read(facade, principal, model, item, place)
    if body.get("tools"):
        raise unsupported("tools", "an agent has the tools of its definition; leave it out.")
    asked = [_asked(run)] if said.question is not None else []
    previous = await _previous(facade, principal, body, run)
    return Continued(said, [*asked, item], previous)


def _answers_a_run(item: Item) -> bool:
    if item.get("type") == "mcp_approval_response":
        return True
    return item.get("type") == "function_call_output" and run_of_call(item["call_id"]) is not None


def _follows_its_call(given: list[Item]) -> bool:
    """Tell whether the client that keeps the history itself sends what was asked, and the answer at its end."""
    if len(given) < 2 or given[-1].get("type") != "function_call_output":
        return False
    return given[-2].get("type") == "function_call" and (
        given[-2].get("call_id") == given[-1]["call_id"]
    )


async def _approval(
    facade: Facade, principal: Principal, model: str, item: Item, place: str
) -> tuple[RunItem, RunAnswer]:
    request: str = item["approval_request_id"]
    run = await agent_run(facade, principal, run_of_approval(request))
    if run is None:
        raise invalid(f"{place}approval_request_id", f"{request[:80]!r} was not asked.")
    require_agent(run, model)
    question = run["request"]
    open_now = question is not None and _asked(run)["id"] == request
    said: dict[str, Any] = {"approved": item["approve"]}
    if item.get("reason"):
        said["reason"] = item["reason"]
    asked = question["id"] if question is not None and open_now else None
    return run, RunAnswer(run["run"], asked, (said,), f"{place}reason", run["last_event"])


async def _output(
    facade: Facade, principal: Principal, model: str, item: Item, place: str
) -> tuple[RunItem, RunAnswer]:
    call, output = item["call_id"], item["output"]
    places = f"{place}call_id", f"{place}output"
    answered = await answered_call(facade, principal, model, call, output, places)
    assert answered is not None  # noqa: S101  for the type checker: its id names a run
    run, said = answered
    if run["request"] is not None and _asked(run)["type"] == "mcp_approval_request":
        raise invalid(f"{place}call_id", "this asks for an approval: send mcp_approval_response.")
    return run, said


def continue_run(
    facade: Facade, principal: Principal, continued: Continued
) -> AsyncGenerator[LoopEvent | Asked, None]:
    """Give what the run tells from its answer on."""
    return agent_goes_on(facade, principal, continued.run, continued.said.after)


async def agent_run_of(facade: Facade, principal: Principal, response: str) -> RunItem | None:
    """Give the run of an agent that a response id names, None if there is none."""
    return await agent_run(facade, principal, run_of(response))


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


def _asked(run: RunItem) -> Item:
    """Give what a run asks now as the item that its response ends in."""
    request = run["request"]
    assert request is not None  # noqa: S101  for the type checker: it waits
    asked = asked_in_response(run["run"], request)
    told: Item = {"name": asked.name, "arguments": asked.arguments}
    if isinstance(asked, ApprovalAsked):
        return {"id": asked.id, "type": "mcp_approval_request", "server_label": LABEL, **told}
    return {
        "id": item_of_call(asked.id),
        "type": "function_call",
        "call_id": asked.id,
        "status": "completed",
        **told,
    }


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
