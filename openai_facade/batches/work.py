"""The work of a run that answers a batch: check its file, answer its lines, write its files."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, cast
from uuid import uuid4

import orjson

from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus
from mcp_server.doors import DeclaredRoute
from mcp_server.errors import AppError, LeaseLost, NotFound
from mcp_server.operation import Operations
from mcp_server.runs.context import RunContext
from mcp_server.runs.outage import through_outage
from mcp_server.runs.record import Outcome
from mcp_server.services.batches import (
    BatchProgress,
    BatchRecord,
    LineAnswer,
    Waiting,
)
from mcp_server.services.batches.records import ENDED
from mcp_server.services.grants import Grant, ScopesNow
from openai_facade.batches.asking import Answered, Unmetered, ask, handlers
from openai_facade.batches.checking import Check
from openai_facade.batches.filing import write_files
from openai_facade.batches.reading import fault
from openai_facade.facade import Facade
from openai_facade.responses.work import GrantedBus

LINES_AT_ONCE = 4
# Of a line whose model is busy: asked this often, with pauses that double from the first to the longest.
_TRIES = 9
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_LOOK_SECONDS = 0.4
_OK = 200

End = Literal["completed", "cancelled", "expired"]
_UNASKED: dict[End, dict[str, str]] = {
    "cancelled": {
        "code": "batch_cancelled",
        "message": "The batch was cancelled before this request was answered.",
    },
    "expired": {
        "code": "batch_expired",
        "message": "The batch expired before this request was answered.",
    },
}


@dataclass(frozen=True, slots=True)
class BatchWork:
    """Executes runs of kind `batch`; a line has at most `longest` bytes, as any request.

    Everything stands in the rows of the batch and its lines: a run that is resumed goes on with the
    lines that wait, so one that was being answered is asked again, and no other.
    """

    facade: Facade
    scopes_now: ScopesNow
    longest: int

    async def __call__(self, context: RunContext) -> Outcome:
        """Bring the batch to its end.

        Raises:
            Unauthenticated: the key that started it is dead.
            AppError: an engine is away, and the run is tried again later.
        """
        run = context.run
        grant = Grant(Principal(run.tenant, run.subject, run.grant, run.key_id), self.scopes_now)
        service = self.facade.services.batches
        progress = service.progress(run.tenant, run.input["batch"], context.key("lines"))
        try:
            await self._answer(context, grant, progress)
        except AppError as error:
            if not error.retryable and not isinstance(error, LeaseLost | NotFound):
                await progress.end("failed", [fault(error.code, error.message)])
            raise
        return _outcome(await progress.load())

    async def _answer(self, context: RunContext, grant: Grant, progress: BatchProgress) -> None:
        batch = await progress.load()
        if batch.status in ENDED:
            return
        if batch.status == "validating":
            errors = await Check(self.facade, progress, batch, self.longest).run(await grant.now())
            if errors:
                await progress.end("failed", errors)
                return
        facade = replace(
            self.facade,
            bus=cast("Bus", GrantedBus(self.facade.bus, grant)),
            operations=cast("Operations", Unmetered(self.facade.operations)),
        )
        lines = _Lines(facade, grant, progress, batch, context)
        end = "completed" if batch.status == "finalizing" else await lines.answer()
        await progress.finalize(_UNASKED.get(end))
        batch = await progress.load()
        await write_files(self.facade.data.files, await grant.now(), batch, progress)
        await progress.end(end)


class _Lines:
    """Answers the lines that wait, a few at once, until all are answered or something ends it."""

    def __init__(
        self,
        facade: Facade,
        grant: Grant,
        progress: BatchProgress,
        batch: BatchRecord,
        context: RunContext,
    ) -> None:
        self._files = facade.data.files
        self._route: DeclaredRoute = handlers(facade)[batch.endpoint]
        self._grant = grant
        self._progress = progress
        self._batch = batch
        self._context = context
        self._told_at = 0.0

    async def answer(self) -> End:
        """Return how it ended.

        Raises:
            Unauthenticated: the key that started it is dead.
        """
        watching = asyncio.create_task(self._watch())
        answering = asyncio.create_task(self._answer_all())
        tasks = (watching, answering)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
                return "completed"
            return watching.result()
        finally:
            await _stop(*tasks)

    async def _watch(self) -> End:
        while True:
            batch = await through_outage(self._progress.load)
            if batch.status == "cancelling":
                return "cancelled"
            if datetime.now(UTC) >= batch.due_at:
                return "expired"
            await self._grant.now()
            self._tell(batch)
            await asyncio.sleep(_LOOK_SECONDS)

    def _tell(self, batch: BatchRecord) -> None:
        if time.monotonic() - self._told_at >= 5.0:  # each is an event that is kept
            self._told_at = time.monotonic()
            self._context.progress(batch.completed + batch.failed, batch.total)

    async def _answer_all(self) -> None:
        turn = asyncio.Lock()
        async with aclosing(self._waiting()) as rows:

            async def work() -> None:
                while True:
                    async with turn:
                        row = await anext(rows, None)
                    if row is None:
                        return
                    answer = await self._answer(row)
                    await through_outage(partial(self._progress.store, row.line, answer))

            workers = [asyncio.create_task(work()) for _ in range(LINES_AT_ONCE)]
            try:
                await asyncio.gather(*workers)
            finally:
                await _stop(*workers)

    async def _waiting(self) -> AsyncGenerator[Waiting]:
        last = 0
        while rows := await through_outage(partial(self._progress.waiting, last)):
            for row in rows:
                yield row
                last = row.line

    async def _answer(self, row: Waiting) -> LineAnswer:
        principal = await self._grant.now()
        name = f"batch_req_{uuid4().hex}"
        try:
            body = await self._body(principal, row)
        except AppError as error:
            if error.retryable:
                raise
            return LineAnswer(
                state="failed",
                answer_id=name,
                error={"code": error.code, "message": error.message},
            )
        answered = await self._insist(principal, body)
        return LineAnswer(
            state="completed" if answered.status == _OK else "failed",
            answer_id=name,
            status_code=answered.status,
            request_id=answered.request_id,
            body=answered.body,
        )

    async def _insist(self, principal: Principal, body: dict[str, Any]) -> Answered:
        """Ask, and ask again after a while where that may help: a batch has the time."""
        for tried in range(1, _TRIES):
            answered = await ask(self._route, principal, body)
            if answered.retry_after is None:
                return answered
            pause = min(_FIRST_PAUSE * 2 ** (tried - 1), _LONGEST_PAUSE)
            spread = pause * random.uniform(0.5, 1.0)  # noqa: S311  spread, not secret
            await asyncio.sleep(min(max(spread, answered.retry_after), _LONGEST_PAUSE))
            principal = await self._grant.now()
        return await ask(self._route, principal, body)

    async def _body(self, principal: Principal, row: Waiting) -> dict[str, Any]:
        found = await self._files.content(principal, self._batch.input_file)
        async with aclosing(found.bytes(row.first_byte, row.end_byte)) as pieces:
            raw = b"".join([piece async for piece in pieces])
        return orjson.loads(raw)["body"]


async def _stop(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _outcome(batch: BatchRecord) -> Outcome:
    """Tell the end as a tool's result."""
    numbers = {"total": batch.total, "completed": batch.completed, "failed": batch.failed}
    text = f"{batch.status}: {batch.completed} of {batch.total} completed, {batch.failed} failed"
    return Outcome(
        status="completed",
        output={"text": text, "structured": numbers, "is_error": batch.status == "failed"},
    )
