"""Answers to what an agent's run asks, as OpenAI's clients send them: the first one counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp_server.agents.asked import answer_schema
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, NotFound
from mcp_server.llm.wire import text_of, value_of
from mcp_server.sendable import check_arguments
from mcp_server.services.run_results import RunItem
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.translate.run_events import call_asked
from openai_facade.translate.run_ids import run_of_call
from openai_facade.wire.faults import invalid

_AGENT_KIND = "agent"


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """What a request says to the question of an agent's run.

    `question` is the open request's id, None if it is not open any more. `readings` are the values that
    the words may stand for, the likeliest first. `after` is the number of the run's newest event before.
    """

    run: str
    question: str | None
    readings: tuple[Any, ...]
    param: str
    after: int

    async def give(self, facade: Facade, principal: Principal) -> None:
        """Answer the run.

        Raises:
            Conflict: somebody else was first. InvalidInput: it is no answer to the question.
        """
        if self.question is None:
            raise Conflict(f"run {self.run} does not wait for this answer: the first answer counts")
        fault: InvalidInput | None = None
        for reading in self.readings:
            try:
                check_arguments({"answer": reading})
                await facade.services.runs.input(principal, self.run, reading, self.question)
            except InvalidInput as error:
                fault = fault or error
            else:
                return
        assert fault is not None  # noqa: S101  for the type checker: there is a reading
        raise InvalidInput(fault.message, param=self.param) from fault


async def agent_run(facade: Facade, principal: Principal, run: str | None) -> RunItem | None:
    """Give a run if it is an agent's and the caller may see it."""
    if run is None:
        return None
    try:
        found = await facade.services.runs.get(principal, run)
    except (NotFound, Forbidden):  # to whoever may read no runs, there is none
        return None
    return found if found["kind"] == _AGENT_KIND else None


def require_agent(run: RunItem, model: str) -> None:
    """Refuse an answer that is sent to another agent than the one that asked.

    Raises:
        InvalidRequest: names the one that asked.
    """
    if f"{AGENT_PREFIX}{run['agent']}" != model:
        raise invalid("model", f"this was asked by {AGENT_PREFIX}{run['agent']}.")


async def answered_call(
    facade: Facade,
    principal: Principal,
    model: str,
    call: str,
    output: object,
    places: tuple[str, str],
) -> tuple[RunItem, RunAnswer] | None:
    """Give what the output of a function call answers, None if the call's id is no question's of a run.

    `call` is the call's id; `output` a text, or a list of parts with texts; `places` are the
    parameters of the two.

    Raises:
        InvalidRequest: there is no such run in this tenant, or another agent's.
    """
    name = run_of_call(call)
    if name is None:
        return None
    run = await agent_run(facade, principal, name)
    if run is None:
        raise invalid(places[0], f"{call[:80]!r} was not asked.")
    require_agent(run, model)
    request = run["request"]
    asked = None if request is None else call_asked(name, request)
    question = request["id"] if request and asked and asked.id == call else None
    schema = answer_schema(dict(request)) if request is not None else None
    readings = _readings(text_of(output), schema)
    return run, RunAnswer(name, question, readings, places[1], run["last_event"])


def _readings(text: str, schema: dict[str, Any] | None) -> tuple[Any, ...]:
    """Give the JSON value that a text is, and the text itself; without a schema the text is the answer."""
    value = None if schema is None else value_of(text)
    return (text,) if value is None and text.strip() != "null" else (value, text)
