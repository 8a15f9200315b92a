"""What a tool or resource function gets beside its arguments."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

from mcp.server.mcpserver import Context
from mcp_types import InputRequiredResult

from mcp_server.agents.asked import check_schema, every_part, is_declined
from mcp_server.auth.principal import Principal
from mcp_server.elicitation.client import AskedClient, Begin, Wait
from mcp_server.errors import Conflict, Forbidden
from mcp_server.runs.context import RunContext
from mcp_server.runs.fence import parse_key
from mcp_server.services import Services
from mcp_server.services.run_results import RunItem


@dataclass(frozen=True, slots=True)
class Call:
    """What a tool or resource function gets through a parameter annotated `Call`.

    `key` is the idempotency key of this call, if the caller has one; `deadline` is in the event
    loop's time. `run` is the attempt at a durable run that a long tool works in, None for any other.
    A call is `detached` if its caller follows the run that it starts, and so waits for no end of it, and
    `by_model` if a model chose it that works for this server, in a run or in a chat: no person has seen it.
    """

    principal: Principal
    services: Services
    key: str | None = None
    deadline: float | None = None
    context: Context | None = None
    run: RunContext | None = None
    detached: bool = False
    by_model: bool = False
    _asks: Iterator[int] = field(default_factory=lambda: count(1), repr=False, compare=False)

    async def progress(
        self, done: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Tell how far the call is: an event of its run, else to the client if that asked for it."""
        if self.run is not None:
            self.run.progress(done, total, message)
        elif self.context is not None:
            await self.context.report_progress(done, total, message)
        # Without a client that asked nothing above waits: a busy loop would stop the whole server.
        await asyncio.sleep(0)

    async def attend(self, begin: Begin, wait: Wait) -> RunItem | InputRequiredResult:
        """Begin a run and wait; what it asks is put to the client of this call, if that fills forms.

        In the 2026-07-28 era the client then calls again, with its answers: there `begin` is not called a
        second time. The tool returns an InputRequiredResult as it is.

        Raises:
            InvalidInput: the client sent answers that belong to no question. And what `begin` and `wait` raise.
        """
        if self.context is None or self.detached or self.by_model:
            return await begin()
        client = AskedClient(self.context, self.principal, self.services.runs)
        return await client.attend(begin, wait)

    async def step(
        self,
        name: str,
        do: Callable[[str | None], Awaitable[Any]],
        *,
        repeatable: bool = True,
        retry_unsure: bool = False,
    ) -> Any:
        """Do one step of a long tool once: a resumed run gets the result (JSON) that it stored.

        `do` gets the step's idempotency key, for the services. `name` is the step's own within the tool
        and the same in each attempt. A step that does not heed the key is not `repeatable`: found begun
        and unfinished, it ends the run as unsure, or is done again if `retry_unsure`.

        Raises:
            Unsure: nobody knows whether an earlier attempt did it.
        """
        if self.run is None:
            return await do(_key_of(self.key, name))
        return await self.run.step(
            f"step/{name}", do, repeatable=repeatable, retry_unsure=retry_unsure
        )

    async def ask(
        self,
        message: str,
        schema: dict[str, Any] | None = None,
        kind: Literal["approval", "question"] = "question",
    ) -> Any:
        """Ask whoever watches the run, and return the answer; meanwhile the run holds no worker.

        The function is called again from its beginning once the answer is there, so what it did before
        goes through `step`, and it asks in the same order each time. `schema` is the JSON schema of the
        answer; an approval is answered by `{"approved": bool, "reason"?: str}`.

        Raises:
            Forbidden: a question was declined. Conflict: the tool is not declared long.
            InvalidInput: the schema is none.
        """
        if schema is not None:
            check_schema(schema)
        answer = await self._asking().ask(
            f"ask/{next(self._asks)}", message=message, schema=schema, kind=kind
        )
        if is_declined(answer):
            raise Forbidden(f"the question was declined: {message}")
        return answer

    async def ask_each(
        self, questions: Mapping[str, tuple[str, dict[str, Any] | None]]
    ) -> dict[str, Any]:
        """Ask several things at once, and return their answers; each may be answered on its own.

        `questions` holds the message and the JSON schema of each by a name, and the result its answer.

        Raises:
            Forbidden: one of them was declined. And what `ask` raises.
        """
        if not questions:
            return {}
        parts: dict[str, dict[str, Any]] = {}
        for name, (message, schema) in questions.items():
            if schema is not None:
                check_schema(schema)
            parts[name] = {"message": message, "schema": schema}
        message = "; ".join(part["message"] for part in parts.values())
        answers = await self._asking().ask(
            f"ask/{next(self._asks)}", message=message, schema=every_part(parts), parts=parts
        )
        for name, part in parts.items():
            if is_declined(answers) or is_declined(answers[name]):
                raise Forbidden(f"the question was declined: {part['message']}")
        return answers

    def _asking(self) -> RunContext:
        if self.run is None:
            raise Conflict("only a tool declared with long=True can ask")
        return self.run


@dataclass(frozen=True, slots=True)
class Content:
    """What a resource shows when its media type depends on what is stored."""

    body: str | bytes
    mime_type: str


def _key_of(key: str | None, name: str) -> str | None:
    fenced = None if key is None else parse_key(key)
    if fenced is not None:
        return str(replace(fenced, key=f"{fenced.key}/{name}"))
    return key and f"{key}/{name}"
