"""The text of an agent's run as one message, also when an interruption cut a turn and it began anew."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from mcp_server.agents.events import Finished, LoopEvent, TextDelta
from openai_facade.translate.run_events import QuestionAsked


class RunText:
    """Gives the text that a chat shows of a run's events.

    What was sent cannot be taken back: the text of a turn that begins anew follows what was shown of
    it after a blank line, and only the answer that is stored with the run leaves it out. With
    `whole_turns`, for an answer that must be JSON, a turn's text comes when the turn is finished,
    and no incomplete one is shown.
    """

    def __init__(self, *, whole_turns: bool) -> None:
        self._whole_turns = whole_turns
        self._held: list[TextDelta] = []
        self._shown: dict[str, TextDelta] = {}
        self._cut: set[str] = set()

    def feed(self, event: Mapping[str, Any]) -> list[TextDelta]:
        """Give the text that an event makes visible."""
        match event["type"]:
            case "text":
                delta = TextDelta(event["text"], event["turn"], event["field"])
                if not self._whole_turns:
                    return [self._joined(delta)]
                self._held.append(delta)
            case "turn_incomplete":
                self._held.clear()
                cut = (name for name, last in self._shown.items() if last.turn == event["turn"])
                self._cut.update(cut)
            case "turn_finished" | "message":
                deltas, self._held = self._held, []
                return deltas
            case _:
                pass
        return []

    def _joined(self, delta: TextDelta) -> TextDelta:
        before = self._shown.get(delta.field)
        self._shown[delta.field] = delta
        if delta.field not in self._cut or before is None:
            return delta
        self._cut.discard(delta.field)
        if delta.text.startswith("\n\n") or before.text.endswith("\n\n"):
            return delta
        return TextDelta(f"\n\n{delta.text}", delta.turn, delta.field)


async def begun_anew(events: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """Give the events of a run that goes on, without the blank line that parts its text from what was said."""
    begun = False
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextDelta) and not begun:
                text = event.text.lstrip("\n")
                begun = bool(text)
                if begun:
                    yield replace(event, text=text)
                continue
            yield event


async def as_one_answer(
    events: AsyncGenerator[Any, None], *, goes_on: bool
) -> AsyncGenerator[LoopEvent, None]:
    """Give the events of one chat of those that a run took: its message holds what was said in this one.

    What the run asks is a call of the message.
    """
    said: dict[str, str] = {}
    asked: QuestionAsked | None = None
    told = begun_anew(events) if goes_on else events
    async with aclosing(told):
        async for event in told:
            if isinstance(event, QuestionAsked):
                asked = event
                continue
            if isinstance(event, TextDelta):
                said[event.field] = said.get(event.field, "") + event.text
            if isinstance(event, Finished) and (goes_on or asked is not None):
                calls = [] if asked is None else [asked.call()]
                message = {"role": "assistant", "content": None, **said}
                message |= {"tool_calls": calls} if calls else {}
                yield replace(event, message=message, client_calls=calls)
                continue
            yield event
