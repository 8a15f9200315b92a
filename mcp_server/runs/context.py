"""What a work sees of the engine that runs it: its run, its events, its steps, and a way to ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, Protocol
from uuid import uuid4

from mcp_server.errors import AppError, InvalidInput
from mcp_server.runs.cleaning import clean
from mcp_server.runs.event_log import EventLog
from mcp_server.runs.fence import StepKey
from mcp_server.runs.outage import through_outage
from mcp_server.runs.record import Event, Outcome, Run

MOST_NAME = 200


class Unsure(AppError):
    """A step that must not be done twice began in an earlier attempt, and nobody knows how it ended."""

    code = "unsure"


class Work(Protocol):
    """What a kind of run does.

    It is called again from its beginning whenever the run is resumed. What must happen once goes
    through `context.step`; everything else must be safe to repeat.
    """

    async def __call__(self, context: RunContext) -> Outcome:
        """Do the work, telling events on the way.

        An `AppError` fails the run with its text, or has it tried again if it is retryable and the
        run has retries left.
        """
        ...


def _check_name(step: str) -> None:
    """Refuse a name that a key could not carry: a key that cannot be read again would fence nothing."""
    if not 0 < len(step) <= MOST_NAME or "@" in step or not step.isprintable():
        raise InvalidInput(
            f"step {step[:40]!r}: a step's name is 1-{MOST_NAME} printable characters without @"
        )


class StepState(Protocol):
    """What an earlier attempt left of a step: one that is not finished began, and may have taken effect."""

    @property
    def finished(self) -> bool: ...

    @property
    def result(self) -> Any: ...


class Begins(Protocol):
    """Where the beginnings of steps go."""

    async def begin(self, run: str, epoch: int, step: str) -> bool:
        """Store that a step begins; False if `epoch` does not hold the run any more."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A work's question; its run waits without a worker until someone answers."""

    step: str
    request: dict[str, Any]


class RunContext:
    """One attempt at a run.

    Its first event after an interruption is `{"type": "resumed", "attempt": n}`: whatever earlier
    events left open, and no finished step stands for, stays incomplete.
    """

    def __init__(
        self,
        run: Run,
        epoch: int,
        log: EventLog,
        steps: Begins,
        states: Mapping[str, StepState],
        *,
        leased: Callable[[], bool] = lambda: True,
    ) -> None:
        self.run = run
        self._epoch = epoch
        self._log = log
        self._steps = steps
        self._results = {name: state.result for name, state in states.items() if state.finished}
        self._begun = {name for name, state in states.items() if not state.finished}
        self._leased = leased
        self.parting: asyncio.Future[Asked | Literal["lost"]] = (
            asyncio.get_running_loop().create_future()
        )

    @property
    def resumed(self) -> bool:
        """Whether an earlier attempt may have told or done something."""
        return self.run.attempt > 1

    def emit(self, event: Event) -> None:
        """Tell one event; it is stored within 100 ms, or at once unless its type is `text` or `progress`."""
        self._log.emit(event)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tell how far the run is, in units of the work's choice."""
        self._log.emit({"type": "progress", "done": done, "total": total, "message": message})

    def key(self, step: str) -> str:
        """Return the idempotency key of a step: the effect that carries it happens once, under our lease.

        Raises:
            InvalidInput: the step's name does not fit.
        """
        _check_name(step)
        return str(StepKey(self.run.id, f"{self.run.id}/{step}", self._epoch, self.run.attempt))

    def finished(self, step: str) -> bool:
        """Tell whether the step's result is stored."""
        return step in self._results

    def result(self, step: str) -> Any:
        """Return the stored result of a finished step, as JSON gives it back."""
        return self._results[step]

    async def step(
        self,
        name: str,
        do: Callable[[str], Awaitable[Any]],
        *,
        repeatable: bool = True,
        retry_unsure: bool = False,
    ) -> Any:
        """Return the step's stored result, or do it with its key and store what it returns (JSON).

        `name` is the same in each attempt, for example `call/3`. A step that is not `repeatable`
        - its effect does not heed the key - is marked before it begins.

        Raises:
            InvalidInput: the name is not 1-200 printable characters without `@`.
            Unsure: it is not repeatable, an earlier attempt began it, and `retry_unsure` is false.
        """
        if name in self._results:
            return self._results[name]
        await self.begin(name, repeatable=repeatable, retry_unsure=retry_unsure)
        return await self.store(name, await do(self.key(name)))

    async def begin(
        self, name: str, *, repeatable: bool = True, retry_unsure: bool = False
    ) -> None:
        """Make sure that the step may begin: the first half of `step`.

        Raises:
            Unsure: see `step`. InvalidInput: the name does not fit.
        """
        _check_name(name)
        if not repeatable and name in self._begun and not retry_unsure:
            raise Unsure(
                f"step {name} had begun when the run was interrupted, and cannot be done twice; "
                "look whether it took effect, then start a new run"
            )
        # A worker that missed its heartbeats may have lost the run: then the database is asked first.
        if repeatable and self._leased():
            return
        if not await through_outage(lambda: self._steps.begin(self.run.id, self._epoch, name)):
            await self._part("lost")

    async def store(self, name: str, result: Any) -> Any:
        """Store a step's result with the events before it, in one transaction; the second half of `step`.

        Returns it as a later attempt will see it.
        """
        kept = clean(result)
        await self._log.finish(name, kept)
        self._results[name] = kept
        return kept

    async def ask(
        self,
        name: str,
        *,
        message: str,
        schema: dict[str, Any] | None = None,
        kind: Literal["approval", "question"] = "question",
        parts: Mapping[str, Mapping[str, Any]] | None = None,
        call: Mapping[str, str] | None = None,
        preview: Mapping[str, Any] | None = None,
        child: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the answer to a question, or end this attempt until there is one.

        The question is the step `name`, and its answer that step's result. While nobody answers, the
        run is `input_required` and nothing of it is in memory: the work is cancelled here and called
        again later. `schema` is the JSON schema of the answer.

        `parts` are what is asked at once and may be answered one by one, each `{message, schema}` by
        its name; the answer is an object with one value for each name. `call` is the call that an
        approval is about, `{name, arguments}`, and `preview` what it would do. `child` is
        `{run, request}` if another run asks this: once that one asks it no more, this one goes on without
        an answer.
        """
        if name in self._results:
            return self._results[name]
        _check_name(name)
        request: dict[str, Any] = {
            "id": f"ask_{uuid4().hex}",
            "step": name,
            "kind": kind,
            "message": clean(message),
            "schema": schema,
        }
        if call is not None:
            request["call"] = clean(dict(call))
        if preview is not None:
            request["preview"] = clean(dict(preview))
        if child is not None:
            request["child"] = dict(child)
        if parts is not None:
            request["parts"] = {part: dict(asked) for part, asked in parts.items()}
        return await self._part(Asked(name, request))

    async def _part(self, how: Asked | Literal["lost"]) -> NoReturn:
        """Hand the run to the engine, which cancels the work: no `except` of a work can hold that up."""
        if not self.parting.done():
            self.parting.set_result(how)
        while True:
            await asyncio.get_running_loop().create_future()
