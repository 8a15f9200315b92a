"""The client of a call, asked in its user's name what the run behind the call asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequest, ElicitResult, InputRequests, InputRequiredResult, InputResponse
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from mcp_server.auth.principal import Principal
from mcp_server.elicitation.forms import (
    Question,
    Response,
    elicitation,
    questions,
    read_response,
)
from mcp_server.errors import Conflict, InvalidInput
from mcp_server.services.run_results import RunItem
from mcp_server.services.runs import RunService

# A client that answers without a person would send the same misfit for ever.
MOST_TRIES = 5
# A form may lie before somebody who has left; the run waits on without its call.
MOST_SECONDS = 600.0

Begin: TypeAlias = Callable[[], Awaitable[RunItem]]
"""Start a run, and return it when it has ended, asks something, or was waited for long enough."""
Wait: TypeAlias = Callable[[str, int], Awaitable[RunItem]]
"""Wait on for a run (its id) from an event on (its number), with the same ends."""


@dataclass(slots=True)
class _Told:
    """What a round's answers came to: a form that the user closed, and by question what did not fit."""

    closed: bool = False
    faults: dict[str, str] = field(default_factory=dict[str, str])


_MODERN = frozenset(MODERN_PROTOCOL_VERSIONS)
_CLOSED: dict[str, Any] = {"action": "cancel"}


class AskedClient:
    """The client of one call of `principal`.

    In the 2026-07-28 era its call ends with what the run asks, and it calls again with the answers; the
    sealed state between the rounds is the run's id. In the handshake era it is asked during its call.
    """

    def __init__(self, context: Context[Any, Any], principal: Principal, runs: RunService) -> None:
        self._context = context
        self._principal = principal
        self._runs = runs
        self._calls_again = context.protocol_version in _MODERN

    async def attend(self, begin: Begin, wait: Wait) -> RunItem | InputRequiredResult:
        """Begin a run, or go on with that of the call's round before, until it rests with no answer to be had.

        Raises:
            InvalidInput: answers came without the state of the round before. And what `begin` and
                `wait` raise.
        """
        context = self._context
        given = context.input_responses or {}
        if context.request_state is None:
            if given:
                raise InvalidInput(
                    "inputResponses: send the requestState that came with the questions as well",
                    param="inputResponses",
                )
            run, told = await begin(), _Told()
        else:
            asking = await self._runs.get(self._principal, context.request_state)
            told = await self._take(asking, given)
            run = asking if told.closed else await wait(asking["run"], asking["last_event"])
        if run["request"] is None or told.closed or not self._can_ask():
            return run
        if self._calls_again:
            return _asked_back(run, told.faults)
        while run["request"] is not None and await self._ask(run):
            run = await wait(run["run"], run["last_event"])
        return run

    def _can_ask(self) -> bool:
        capabilities = self._context.client_capabilities
        form = capabilities and capabilities.elicitation
        # As the protocol has it, an empty declaration stands for forms.
        return form is not None and (form.form is not None or form.url is None)

    async def _take(self, run: RunItem, given: Mapping[str, InputResponse]) -> _Told:
        """Answer what is still open with what the client was told; other answers come too late."""
        told = _Told()
        for question in _open(run):
            if question.key not in given:
                continue
            response = _plain(given[question.key])
            if response.get("action") == "cancel":
                told.closed = True
                continue
            try:
                await self._put(run, question, response)
            except InvalidInput as error:
                told.faults[question.key] = error.message
        return told

    async def _ask(self, run: RunItem) -> bool:
        """Have one open question answered, here or elsewhere; False if nobody does it here."""
        asked = _open(run)
        fault: str | None = None
        for _ in range(MOST_TRIES if asked else 0):
            response = await self._elicit(run, asked[0], fault)
            if response == "moved":
                return True
            if response.get("action") == "cancel":
                return False
            try:
                await self._put(run, asked[0], response)
            except InvalidInput as error:
                fault = error.message
            else:
                return True
        return False

    async def _put(self, run: RunItem, question: Question, response: dict[str, Any]) -> None:
        told = read_response(question, response)
        await put_answer(self._runs, self._principal, run["run"], question, told)

    async def _elicit(
        self, run: RunItem, question: Question, fault: str | None
    ) -> dict[str, Any] | Literal["moved"]:
        """Show a form, as long as nobody answers elsewhere; who cannot show it closes it."""
        filling = asyncio.ensure_future(self._fill(question, fault))
        moving = asyncio.ensure_future(self._moved(run))
        try:
            await asyncio.wait(
                (filling, moving), timeout=MOST_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if filling.done():
                return filling.result()
            if moving.done():
                moving.result()
                return "moved"
            return _CLOSED
        finally:
            filling.cancel()  # the client is told so
            moving.cancel()
            await asyncio.gather(filling, moving, return_exceptions=True)

    async def _fill(self, question: Question, fault: str | None) -> dict[str, Any]:
        asked = elicitation(question, fault)["params"]
        try:
            response = await self._context.session.elicit_form(
                asked["message"],
                asked["requestedSchema"],
                # Without it the request would go to a stream that the client may not have opened.
                related_request_id=self._context.request_id,
            )
        except ValidationError:  # it answered something else: asked again, it may do better
            return {}
        except MCPError:
            return _CLOSED
        return _plain(response)

    async def _moved(self, run: RunItem) -> None:
        """Return when a run has told anything since it asked."""
        followed = self._runs.follow(self._principal, run["run"], run["last_event"])
        async with aclosing(followed) as events:
            async for _ in events:
                return


async def put_answer(
    runs: RunService, principal: Principal, run: str, question: Question, told: Response
) -> None:
    """Answer a run's question as a form was filled; nothing happens if somebody else was first, or the run has ended.

    Raises:
        InvalidInput: it does not fit. NotFound: there is no such run in this tenant.
    """
    with suppress(Conflict):
        await runs.input(
            principal,
            run,
            told.answer,
            question.request,
            part=question.part,
            declined=told.declined,
        )


def _open(run: RunItem) -> list[Question]:
    return [] if run["request"] is None else questions(run["request"])


def _plain(response: InputResponse) -> dict[str, Any]:
    return response.model_dump(mode="json") if isinstance(response, ElicitResult) else {}


def _asked_back(run: RunItem, faults: Mapping[str, str]) -> InputRequiredResult:
    """Return what a client of the 2026-07-28 era is asked, and the state that it sends with the answers."""
    requests: InputRequests = {
        question.key: ElicitRequest.model_validate(elicitation(question, faults.get(question.key)))
        for question in _open(run)
    }
    return InputRequiredResult(input_requests=requests, request_state=run["run"])
