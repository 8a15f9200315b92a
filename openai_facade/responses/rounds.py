"""A response whose calls wait for people: the rounds between its questions, each a loop with steps of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from mcp_server.agents.asked import decided_elsewhere
from mcp_server.agents.events import Finished
from mcp_server.agents.steps import NOTHING_TOLD, Steps, Told
from openai_facade.responses.approvals import Answered
from openai_facade.translate.response_calls import CallKind
from openai_facade.translate.response_object import Item, Response

APPROVAL = "mcp_approval_request"
MOST_SHOWN = 2_000
_MADE = frozenset({"mcp_call", "file_search_call"})


@dataclass(frozen=True, slots=True)
class RoundSteps:
    """The steps of one round's loop: those of the run under a prefix."""

    steps: Steps
    prefix: str

    def finished(self, step: str, /) -> bool:
        return self.steps.finished(self.prefix + step)

    def result(self, step: str, /) -> Any:
        return self.steps.result(self.prefix + step)

    def key(self, step: str, /) -> str:
        return self.steps.key(self.prefix + step)

    async def begin(
        self, step: str, /, *, repeatable: bool = True, retry_unsure: bool = False
    ) -> None:
        await self.steps.begin(self.prefix + step, repeatable=repeatable, retry_unsure=retry_unsure)

    async def store(self, step: str, result: Any, /) -> Any:
        return await self.steps.store(self.prefix + step, result)

    async def ask(
        self,
        step: str,
        /,
        *,
        message: str,
        schema: dict[str, Any] | None = None,
        kind: Literal["approval", "question"] = "question",
        call: Mapping[str, str] | None = None,
        preview: Mapping[str, Any] | None = None,
    ) -> Any:
        return await self.steps.ask(
            self.prefix + step,
            message=message,
            schema=schema,
            kind=kind,
            call=call,
            preview=preview,
        )


def steps_of(steps: Steps | None, number: int) -> Steps | None:
    """Give the steps of round `number`; those of the first one have the run's own names."""
    return steps if steps is None or number == 1 else RoundSteps(steps, f"round/{number}/")


def pending(response: Response) -> list[Item]:
    """Give the approval requests of a response whose calls it neither made nor refused."""
    settled = {item.get("approval_request_id") for item in response["output"]}
    return [
        item
        for item in response["output"]
        if item["type"] == APPROVAL and item["id"] not in settled
    ]


def asked_by(finished: Finished, calls: Mapping[str, CallKind], output: list[Item]) -> list[Item]:
    """Give the approval requests that a finished loop waits for.

    None if it ended for another reason too: a call of the client's own needs the client's next request.
    """
    names = [call["function"]["name"] for call in finished.client_calls]
    kinds = {calls[name].kind if name in calls else "function" for name in names}
    if finished.stopped or kinds != {"approval"}:
        return []
    return [item for item in output if item["type"] == APPROVAL][-len(names) :]


async def answers_of(steps: Steps, requests: list[Item]) -> list[Answered] | None:
    """Give what a person said to each request; while something is open, the attempt ends here.

    None if another response goes on from them.
    """
    answers: list[Answered] = []
    for item in requests:
        shown = item["arguments"][:MOST_SHOWN]
        more = " …" if len(item["arguments"]) > MOST_SHOWN else ""
        answer = await steps.ask(
            f"approval/{item['id']}",
            message=f"May the response call {item['name']} of {item['server_label']} with {shown}{more}?",
            kind="approval",
            call={"name": item["name"], "arguments": item["arguments"]},
        )
        if decided_elsewhere(answer) is not None:
            return None
        given = cast("dict[str, Any]", answer)
        about = (item["id"], item["server_label"], item["name"], item["arguments"])
        answers.append(Answered(*about, given["approved"], given.get("reason") or ""))
    return answers


def begun_at(output: list[Item], requests: list[Item]) -> int:
    """Give the place in the output at which the round after these requests begins: behind their calls."""
    wanted = {item["id"] for item in requests}
    return max(
        (
            index + 1
            for index, item in enumerate(output)
            if item["type"] == "mcp_call" and item["approval_request_id"] in wanted
        ),
        default=0,
    )


def told_in(items: list[Item]) -> Told:
    """Count the calls whose end was told: one that was cut off is told again, as another item."""
    ended = [
        item
        for item in items
        if item["type"] in _MADE
        and item.get("status") in {"completed", "failed"}
        and not item.get("approval_request_id")
    ]
    numbers = frozenset(range(1, len(ended) + 1))  # calls end in their order where nobody is asked
    return Told(frozenset(), numbers, numbers) if ended else NOTHING_TOLD
