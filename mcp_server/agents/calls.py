"""Makes the calls of one loop: approved where that is needed, once each however often the loop is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from mcp_server.agents.answer import ToolCall
from mcp_server.agents.conversation import Conversation
from mcp_server.agents.events import Toolbox, ToolFinished, ToolOutcome, ToolStarted
from mcp_server.agents.previews import preview_of
from mcp_server.agents.questions import ASK_PERSON, ask_person
from mcp_server.agents.steps import APPROVAL, CallRules, Steps, Told
from mcp_server.errors import AppError, Unauthenticated
from mcp_server.runs.in_doubt import in_doubt, settled

MOST_SHOWN = 2_000


@dataclass(slots=True)
class Caller:
    """Runs the server's calls of each turn, in order.

    With `steps`, call n of the loop is the step `call/n`: finished, it is neither made nor told again.
    """

    toolbox: Toolbox
    talk: Conversation
    steps: Steps | None
    rules: CallRules
    told: Told
    _number: int = field(default=0, init=False)

    async def run_calls(self, turn: int) -> AsyncGenerator[ToolStarted | ToolFinished, None]:
        """Make the calls of the turn and add their results to the conversation."""
        for call in self.talk.server_calls:
            if not self.talk.admits_call():
                break
            self._number += 1
            step = f"call/{self._number}"
            if self.steps is not None and self.steps.finished(step):
                self._restore(call, self.steps.result(step))
                continue
            outcome = self.talk.problem_of(call)
            ran = outcome is None
            outcome = outcome or await self._refusal(call)
            if self._number > self.told.calls_started:
                yield ToolStarted(call.id, call.name, call.arguments, turn)
            outcome = outcome or await self._make(call, step)
            text = self.talk.fit(outcome.text)
            self.talk.add_result(call, text, ran=ran)
            if self._number > self.told.calls_finished:
                yield ToolFinished(call.id, call.name, text, outcome.is_error, turn)
            if self.steps is not None:
                result = {"text": text, "is_error": outcome.is_error, "ran": ran}
                await self.steps.store(step, {**result, "stopped": self.talk.stopped})
        self.talk.close_calls()

    def _restore(self, call: ToolCall, result: Mapping[str, Any]) -> None:
        self.talk.add_result(call, result["text"], ran=result["ran"])
        self.talk.stopped = result["stopped"]

    async def _refusal(self, call: ToolCall) -> ToolOutcome | None:
        """Have a person asked where the rules or the call say so; None if the call is to be made."""
        if self.steps is None:
            return None
        if call.name == ASK_PERSON:
            return await ask_person(self.steps, f"ask/{self._number}", call)
        if call.name not in self.rules.approve:
            return None
        step = f"approve/{self._number}"
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

    async def _make(self, call: ToolCall, step: str) -> ToolOutcome:
        """Make one call within the loop's time."""
        repeatable = self.toolbox.repeatable(call.name)
        if self.steps is not None:
            await self._begin(self.steps, call, step, repeatable=repeatable)
        limit = asyncio.timeout_at(self.talk.deadline)
        try:
            async with limit:
                if self.steps is None or not repeatable:
                    return await self._try(call, step)
                return await self._insist(self.steps, call, step)
        except TimeoutError:
            if not limit.expired():
                raise
            self.talk.stopped = "seconds"
            text = "timeout: the time limit passed while the tool ran"
            return ToolOutcome(text, is_error=True)

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
