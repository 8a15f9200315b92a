"""Makes the calls of one loop: approved where that is needed, once each however often the loop is interrupted."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from mcp_server.agents.answer import ToolCall
from mcp_server.agents.at_once import at_once
from mcp_server.agents.conversation import Conversation
from mcp_server.agents.events import Stopped, Toolbox, ToolFinished, ToolOutcome, ToolStarted
from mcp_server.agents.previews import preview_of
from mcp_server.agents.questions import ASK_PERSON, ask_person
from mcp_server.agents.steps import APPROVAL, CallRules, Steps, Told
from mcp_server.errors import AppError, Unauthenticated
from mcp_server.runs.in_doubt import in_doubt, settled

MOST_SHOWN = 2_000

Result: TypeAlias = Mapping[str, Any]
"""What is stored of a call: `text`, `is_error`, whether it `ran`, and the limit that `stopped` it."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Call `number` of the loop; `made` is what an earlier attempt stored of it."""

    number: int
    call: ToolCall
    problem: ToolOutcome | None
    made: Result | None

    @property
    def step(self) -> str:
        return f"call/{self.number}"

    @property
    def answer(self) -> str:
        """The step of a person's answer about it."""
        kind = "ask" if self.call.name == ASK_PERSON else "approve"
        return f"{kind}/{self.number}"

    @property
    def runs(self) -> bool:
        """Whether a tool is really called."""
        return self.problem is None if self.made is None else bool(self.made["ran"])


@dataclass(slots=True)
class Caller:
    """Runs the server's calls of each turn, several at once; their results are added in order.

    With `steps`, call n of the loop is the step `call/n`: finished, it is neither made nor told again.
    """

    toolbox: Toolbox
    talk: Conversation
    steps: Steps | None
    rules: CallRules
    told: Told
    at_once: int
    _number: int = field(default=0, init=False)

    async def run_calls(self, turn: int) -> AsyncGenerator[ToolStarted | ToolFinished, None]:
        """Make the calls of the turn and add their results to the conversation.

        Those that a person must allow come last: until then nothing else waits for that person.
        """
        planned = list(self._plan())
        waiting = [each for each in planned if self._waits(each)]
        batches = [[each for each in planned if each not in waiting], *([each] for each in waiting)]
        results: dict[int, Result] = {}
        for batch in batches:
            for each in batch:
                if self._waits(each) and self._may_begin(each):
                    await self._refusal(each)  # before anyone is told that the call begins
            async with aclosing(self._run(batch, turn, results)) as events:
                async for event in events:
                    yield event
        if len(planned) < len(self.talk.server_calls):
            self.talk.stopped = self.talk.stopped or "tool_calls"
        for each in planned:
            result = results.get(each.number)
            if result is not None:
                self.talk.add_result(each.call, result["text"], is_error=result["is_error"])
                self.talk.add_usage(result.get("usage"))
        self.talk.close_calls()

    def _plan(self) -> Iterator[Planned]:
        for call in self.talk.server_calls:
            if not self.talk.admits_call:
                return
            self._number += 1
            step = f"call/{self._number}"
            done = self.steps is not None and self.steps.finished(step)
            made = self.steps.result(step) if self.steps is not None and done else None
            planned = Planned(self._number, call, self.talk.problem_of(call), made)
            self.talk.count_call(runs=planned.runs)
            yield planned

    def _waits(self, planned: Planned) -> bool:
        """Tell whether a person has still to answer about a call."""
        if self.steps is None or planned.made is not None or planned.problem is not None:
            return False
        name = planned.call.name
        needed = name == ASK_PERSON or name in self.rules.approve
        return needed and not self.steps.finished(planned.answer)

    async def _run(
        self, batch: Sequence[Planned], turn: int, results: dict[int, Result]
    ) -> AsyncGenerator[ToolStarted | ToolFinished, None]:
        """Make calls at once and tell their ends in order; what ends before its turn is stored by then."""
        untold = deque(batch)
        running = at_once(batch, self._result, most=self.at_once, may_begin=self._may_begin)
        async with aclosing(running) as happened:
            async for planned, ended in happened:
                if ended is None:
                    if planned.number not in self.told.calls_started:
                        yield _started(planned, turn)
                    continue
                results[planned.number] = ended.result
                self.talk.stopped = self.talk.stopped or ended.result["stopped"]
                if planned is not untold[0]:
                    await self._store(planned, ended.result)
                while untold and untold[0].number in results:
                    first = untold.popleft()
                    if first.number not in self.told.calls_finished:
                        yield _finished(first, results[first.number], turn)
                    if first is planned:  # in one transaction with the event
                        await self._store(planned, ended.result)

    def _may_begin(self, planned: Planned) -> bool:
        return planned.made is not None or self.talk.stopped is None

    async def _store(self, planned: Planned, result: Result) -> None:
        if self.steps is not None and planned.made is None:
            await self.steps.store(planned.step, result)

    async def _result(self, planned: Planned) -> Result:
        if planned.made is not None:
            return planned.made
        outcome, stopped = planned.problem or await self._refusal(planned), None
        if outcome is None:
            outcome, stopped = await self._make(planned.call, planned.step)
        text = self.talk.fit(outcome.text)
        told = {"text": text, "is_error": outcome.is_error, "ran": planned.runs}
        return {**told, "stopped": stopped, "usage": outcome.usage}

    async def _refusal(self, planned: Planned) -> ToolOutcome | None:
        """Have a person asked where the rules or the call say so; None if the call is to be made."""
        call, step = planned.call, planned.answer
        if self.steps is None:
            return None
        if call.name == ASK_PERSON:
            return await ask_person(self.steps, step, call)
        if call.name not in self.rules.approve:
            return None
        if self.steps.finished(step):
            return _refused(self.steps.result(step))
        shown = call.arguments[:MOST_SHOWN] or "{}"
        more = f" … ({len(call.arguments)} characters)" if len(call.arguments) > MOST_SHOWN else ""
        answer = await self.steps.ask(
            step,
            message=f"May the agent call {call.name} with {shown}{more}?",
            schema=APPROVAL,
            kind="approval",
            call={"name": call.name, "arguments": call.arguments or "{}"},
            preview=await preview_of(self.toolbox, call),
        )
        return _refused(answer)

    async def _make(self, call: ToolCall, step: str) -> tuple[ToolOutcome, Stopped | None]:
        """Make one call within the loop's time; the second is the limit that ended it."""
        repeatable = self.toolbox.repeatable(call.name)
        if self.steps is not None:
            await self._begin(self.steps, call, step, repeatable=repeatable)
        limit = asyncio.timeout_at(self.talk.deadline)
        try:
            async with limit:
                if self.steps is None or not repeatable:
                    return await self._try(call, step), None
                return await self._insist(self.steps, call, step), None
        except TimeoutError:
            if not limit.expired():
                raise
            text = "timeout: the time limit passed while the tool ran"
            return ToolOutcome(text, is_error=True), "seconds"

    async def _begin(self, steps: Steps, call: ToolCall, step: str, *, repeatable: bool) -> None:
        again = self.rules.unsure == "retry"
        try:
            await steps.begin(step, repeatable=repeatable, retry_unsure=again)
        except AppError as error:
            raise type(error)(f"tool {call.name}: {error.message}") from error

    async def _insist(self, steps: Steps, call: ToolCall, step: str) -> ToolOutcome:
        """Call until it is known what came of it: an engine that broke off may have done its work.

        The key makes each repetition harmless. How long the steps' own store is away counts only
        towards the loop's time.
        """
        return await settled(
            lambda: self._try(call, step),
            lambda outcome: outcome.is_error and in_doubt(outcome.text),
            lambda: steps.begin(step, repeatable=False, retry_unsure=True),
        )

    async def _try(self, call: ToolCall, step: str) -> ToolOutcome:
        key = self.steps.key(step) if self.steps is not None else None
        try:
            return await self.toolbox.call(call.name, call.read(), key=key)
        except Unauthenticated:
            raise
        except AppError as error:
            return ToolOutcome(str(error), is_error=True)


def _started(planned: Planned, turn: int) -> ToolStarted:
    call = planned.call
    return ToolStarted(call.id, call.name, call.arguments, turn, planned.number)


def _finished(planned: Planned, result: Result, turn: int) -> ToolFinished:
    call = planned.call
    told = (result["text"], result["is_error"])
    return ToolFinished(call.id, call.name, *told, turn, planned.number)


def _refused(answer: object) -> ToolOutcome | None:
    approved, reason = _read_approval(answer)
    if approved:
        return None
    why = f": {reason}" if reason else ""
    return ToolOutcome(f"forbidden: the call was refused{why}", is_error=True)


def _read_approval(answer: object) -> tuple[bool, str]:
    """Read a person's answer: whatever does not say yes is a no."""
    if isinstance(answer, Mapping):
        given = cast("Mapping[str, Any]", answer)
        return given.get("approved") is True, str(given.get("reason") or "")
    return answer is True, ""
