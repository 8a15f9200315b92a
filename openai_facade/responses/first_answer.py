"""The first answer to an approval that a response in the background waits for: said in a request, it counts for its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcp_server.agents.asked import decided_elsewhere
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, NotFound
from mcp_server.services.run_results import RESPONSE_KIND
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.responses.approvals import Answered
from openai_facade.translate.run_ids import run_of_approval
from openai_facade.wire.faults import invalid

_PAGE = 1000


async def settle(facade: Facade, principal: Principal, answered: Sequence[Answered]) -> None:
    """Have every run that waits for one of these answers end where it is: this request goes on from it.

    To say the same again is no second answer: a client whose request broke off may repeat it.

    Raises:
        Conflict: somebody else was first. InvalidRequest: an agent's run asked.
    """
    by_run: dict[str, dict[str, bool]] = {}
    for each in answered:
        run = run_of_approval(each.request)
        if run is not None:
            by_run.setdefault(run, {})[each.request] = each.approved
    for run, decisions in by_run.items():
        await _settle_one(facade, principal, run, decisions)


async def _settle_one(
    facade: Facade, principal: Principal, run: str, decisions: Mapping[str, bool]
) -> None:
    runs = facade.services.runs
    try:
        found = await runs.get(principal, run)
    except NotFound:
        return  # it is over, and kept no longer
    if found["kind"] != RESPONSE_KIND:
        raise invalid("model", f"an agent asks: send the model {AGENT_PREFIX}{found['agent']}.")
    told = await _read(facade, principal, run)
    if found["request"] is not None and told.questions == 1:
        try:
            await runs.settle_elsewhere(principal, run, found["request"]["id"], decisions)
        except Conflict:
            told = await _read(facade, principal, run)  # somebody was quicker: with the same words?
        else:
            return
    if told.decided is None and found["status"] == "completed":
        return  # it never waited: something else was asked of its client as well
    before = told.decided
    if before is None or any(before.get(name, said) != said for name, said in decisions.items()):
        raise Conflict(f"run {run} was answered already; the first answer counts")


@dataclass(slots=True)
class _Told:
    """What a run's events tell: what another request decided, and how often it asked since its last item."""

    decided: dict[str, bool] | None = None
    questions: int = 0


async def _read(facade: Facade, principal: Principal, run: str) -> _Told:
    told, after = _Told(), 0
    while True:
        page = await facade.services.runs.events(principal, run, after, _PAGE)
        for event in page["items"]:
            if event["type"] == "response.completed":
                told.questions = 0
            elif event["type"] == "status" and event["status"] == "input_required":
                told.questions += 1
            elif event["type"] == "input":
                told.decided = decided_elsewhere(event["answer"])
        if not page["items"]:
            return told
        after = page["next_after"]
