"""The approvals that a request answers: which call each one is about, and what the person said."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mcp_server.agents.events import ToolFinished
from mcp_server.agents.steps import Steps
from mcp_server.errors import Conflict
from mcp_server.llm.wire import value_of
from openai_facade.responses.context import Context
from openai_facade.responses.tools import ResponseToolbox
from openai_facade.translate.response_calls import CallKind
from openai_facade.translate.response_events import Event, ResponseEvents
from openai_facade.translate.response_messages import mcp_text, model_name
from openai_facade.translate.response_object import Item
from openai_facade.wire.faults import invalid

_REFUSED = "forbidden: the call was refused"


@dataclass(frozen=True, slots=True)
class Answered:
    """One call with a person's answer; `request` is the id of the mcp_approval_request."""

    request: str
    label: str
    tool: str
    arguments: str
    approved: bool
    reason: str

    @property
    def function(self) -> str:
        """The name by which the model knows the tool."""
        return model_name(self.label, self.tool)

    @property
    def refusal(self) -> str:
        """What the model reads of a call that was refused."""
        why = f": {self.reason}" if self.reason else ""
        return f"{_REFUSED}{why}"

    def read(self) -> dict[str, Any]:
        """Parse the arguments; a request holds an object, or the model's call was no call."""
        value = value_of(self.arguments or "{}")
        if not isinstance(value, dict):
            raise invalid("input", f"the arguments of {self.request} are not a JSON object.")
        return cast("dict[str, Any]", value)


def read_approvals(context: Context, calls: Mapping[str, CallKind]) -> list[Answered]:
    """Give the answers whose calls were not made yet, in the order of the input.

    Raises:
        InvalidRequest: there is no such request, or its tool is not among those of this request.
        Conflict: an earlier response was answered otherwise.
    """
    asked = {item["id"]: item for item in context.items if item["type"] == "mcp_approval_request"}
    calls_made = [item for item in context.items if item["type"] == "mcp_call"]
    made = {item.get("approval_request_id") for item in calls_made}
    refused = {item.get("approval_request_id") for item in calls_made if _was_refused(item)}
    answered: list[Answered] = []
    for index, item in enumerate(context.own):
        if item["type"] != "mcp_approval_response":
            continue
        name: str = item["approval_request_id"]
        if name in made:
            if item["approve"] == (name in refused):
                raise Conflict(f"{name[:80]} was answered already; the first answer counts")
            continue
        place = f"input[{index}].approval_request_id"
        request = asked.get(name)
        if request is None:
            raise invalid(place, f"{name[:80]!r} was not asked.")
        made.add(request["id"])
        answer = Answered(
            request["id"],
            request["server_label"],
            request["name"],
            request["arguments"],
            item["approve"],
            item.get("reason") or "",
        )
        if answer.approved:
            answer.read()
            _require_tool(place, answer, calls)
        answered.append(answer)
    return answered


async def answer_approvals(
    told: ResponseEvents,
    toolbox: ResponseToolbox,
    answered: Sequence[Answered],
    steps: Steps | None,
) -> AsyncGenerator[Event, None]:
    """Make the calls that a person allowed, and tell of those that were refused.

    What `told` holds already is not done again; with `steps` each call has the key of its own step.
    """
    done = {
        item.get("approval_request_id")
        for item in told.response["output"]
        if item.get("status") in {"completed", "failed"}
    }
    for answer in answered:
        if answer.request in done:
            continue
        if not answer.approved:
            about = (answer.label, answer.tool, answer.arguments, answer.request, answer.refusal)
            for event in told.refused(*about):
                yield event
            continue
        call, name = f"call_{answer.request}", answer.function
        for event in told.approved(call, name, answer.arguments, answer.request):
            yield event
        step, key = f"approved/{answer.request}", None
        if steps is not None:
            await steps.begin(step, repeatable=toolbox.repeatable(name))
            key = steps.key(step)
        outcome = await toolbox.attempt(name, answer.read(), key=key)
        for event in told.feed(ToolFinished(call, name, outcome.text, outcome.is_error, 0)):
            yield event
        if steps is not None:
            await steps.store(step, {"is_error": outcome.is_error})


def _was_refused(call: Item) -> bool:
    return call.get("status") == "failed" and mcp_text(call).startswith(_REFUSED)


def _require_tool(place: str, answer: Answered, calls: Mapping[str, CallKind]) -> None:
    call = calls.get(answer.function)
    if call is None or (call.label, call.tool) != (answer.label, answer.tool):
        raise invalid(
            place,
            f"{answer.tool[:80]!r} of {answer.label[:80]!r} is not among the tools of this request; "
            "send the same tools as before.",
        )
