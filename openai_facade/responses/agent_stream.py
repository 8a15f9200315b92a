"""An agent's run as a response: as it is by now, or followed by its number of events, from any process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

from mcp_server.auth.principal import Principal
from mcp_server.services.run_results import RunItem
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.translate.agent_response import AgentResponse
from openai_facade.translate.response_events import Event
from openai_facade.translate.response_fold import fold
from openai_facade.translate.response_object import ENDED, Response, new_response
from openai_facade.translate.run_ids import response_of

_RUN_ENDED = frozenset({"completed", "failed", "cancelled", "expired"})
_PAGE = 1000


async def agent_response(facade: Facade, principal: Principal, run: RunItem) -> Response:
    """Give the response of an agent's run with all that the run has told by now.

    One that waits for a person is `completed` and ends with what it asks.
    """
    runs, name = facade.services.runs, run["run"]
    told = _begun(run)
    events, after = told.begin(), 0
    while (page := await runs.events(principal, name, after, _PAGE))["items"]:
        run = await runs.get(principal, name)
        for stored in page["items"]:
            events += told.feed(stored, _seconds(run["ended_at"]))
        after = page["next_after"]
    response = fold(events)
    if run["status"] == "cancelled":
        return response | {"status": "cancelled"}
    if response["status"] in ENDED and run["ended_at"] is None and run["request"] is None:
        return response | {"status": "in_progress", "completed_at": None}  # just answered
    return response


async def follow_agent(
    facade: Facade, principal: Principal, run: RunItem, after: int
) -> AsyncGenerator[Event, None]:
    """Yield the events of the response of an agent's run with a number over `after`, up to its last.

    Where the run waits for a person, that is the last one for now; what follows the answer is told
    to who asks again. Who stops following stops nothing.
    """
    told = _begun(run)
    for event in told.begin():
        if event["sequence_number"] > after:
            yield event
    runs = facade.services.runs
    async with aclosing(runs.follow(principal, run["run"])) as events:
        async for stored in events:
            ended_at = None
            status = stored["status"] if stored["type"] == "status" else None
            if status in _RUN_ENDED:
                ended_at = _seconds((await runs.get(principal, run["run"]))["ended_at"])
            for event in told.feed(stored, ended_at):
                if event["sequence_number"] > after:
                    yield event
            if status == "input_required" and told.asks:
                now = await runs.get(principal, run["run"])
                if now["request"] is not None and now["request"]["id"] == stored["request"]["id"]:
                    return


def _begun(run: RunItem) -> AgentResponse:
    created = datetime.fromisoformat(run["created_at"] or "")
    body = {"model": f"{AGENT_PREFIX}{run['agent']}", "background": True}
    response = new_response(
        body, response=response_of(run["run"]), created_at=int(created.timestamp())
    )
    return AgentResponse(run["run"], response | {"status": "queued"})


def _seconds(time: str | None) -> int | None:
    return None if time is None else int(datetime.fromisoformat(time).timestamp())
