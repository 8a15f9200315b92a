"""Answering what runs ask: the answer fits its question, and the first one counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mcp_server.agents.asked import DECLINED, elsewhere
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput
from mcp_server.runs.record import Run
from mcp_server.services.run_answer_check import AnswerCheck
from mcp_server.services.run_results import RunItem, run_item
from mcp_server.services.run_starts import RunStarts
from mcp_server.services.run_watch import RunWatch


class RunInputs(RunStarts):
    """Answering is an operation on `run://ID`."""

    _watch: RunWatch
    _answers: AnswerCheck

    async def input(
        self,
        principal: Principal,
        run: str,
        answer: Any,
        request: str | None = None,
        *,
        part: str | None = None,
        declined: bool = False,
        by_model: bool = False,
    ) -> RunItem:
        """Answer what a run asks, and let it go on; the first answer wins.

        `request` is the id of the question, for a caller that wants to answer no other one, and `part`
        one of several things that it asks at once: the run goes on with the last of them. A question
        that is `declined` raises `forbidden` in what asked it; an approval is answered by false instead.
        `by_model`: a model chose to answer that works for this server, in a run or in a chat. It may
        answer questions and refuse, but an approval is a person's.

        Raises:
            NotFound: there is no such run in this tenant. InvalidInput: the answer does not fit the
            question. Conflict: the run asks nothing, or was answered already. Forbidden: a model approves.
        """
        async with self._access.opening(principal, "run", run) as (_, found):
            asked = _open_request(found, request)
            if declined:
                answer = _declined(asked)
            elif part is None:
                await self._answers.check(asked, answer)
            else:
                await self._answers.check_part(asked, part, answer)
            if by_model and asked["kind"] == "approval" and answer["approved"]:
                raise Forbidden(f"run {run} waits for a person's approval, which no model can give")
            answered = await self._queue.answer(
                principal.tenant, run, asked["id"], answer, part, by=principal.subject
            )
            if answered != "ok":
                raise Conflict(f"run {run} was answered already; the first answer counts")
            self._wake.send("queue")
            self._watch.tell()
            if part is not None:
                return run_item(await self._access.load(principal.tenant, run))
            # As the answer left it: a worker may have taken it since.
            return run_item(
                replace(found, status="queued", request=None, last_seq=found.last_seq + 2)
            )

    async def settle_elsewhere(
        self, principal: Principal, run: str, request: str, decisions: Mapping[str, bool]
    ) -> None:
        """Let a run that waits end where it is, since another one goes on from its question.

        It counts as the answer to `request`, for which `decisions` say by the caller's own ids what was decided.

        Raises:
            NotFound: there is no such run in this tenant. Conflict: it asks nothing, or was answered already.
        """
        async with self._access.opening(principal, "run", run) as (_, found):
            asked = _open_request(found, request)
            answer = elsewhere(decisions)
            answered = await self._queue.answer(
                principal.tenant, run, asked["id"], answer, by=principal.subject
            )
            if answered != "ok":
                raise Conflict(f"run {run} was answered already; the first answer counts")
            self._wake.send("queue")
            self._watch.tell()


def _open_request(run: Run, request: str | None) -> dict[str, Any]:
    asked = run.request
    if run.status != "input_required" or asked is None:
        raise Conflict(f"run {run.id} waits for no input; it is {run.status}")
    if request is not None and request != asked["id"]:
        raise Conflict(f"run {run.id} asks {asked['id']} now; {request[:80]!r} is over")
    return asked


def _declined(request: dict[str, Any]) -> dict[str, Any]:
    if request["kind"] == "approval":
        raise InvalidInput("an approval is not declined but answered: approved is false")
    return dict(DECLINED)
