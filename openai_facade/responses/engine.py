"""Answers a response's request as a stream of events, for whoever asks: a door, a run, a socket."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from mcp_server.agents.events import Finished, LoopEvent, TurnFinished
from mcp_server.agents.loop import run_loop
from mcp_server.agents.steps import Steps, Told
from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, LeaseLost, Unavailable
from mcp_server.llm import ChatRequest, UpstreamError
from mcp_server.llm.wire import sum_usage
from openai_facade.agent_chat import agent_events
from openai_facade.chat_media import with_media
from openai_facade.facade import Facade
from openai_facade.responses import rounds
from openai_facade.responses.agent_runs import continue_run
from openai_facade.responses.approvals import Answered, answer_approvals
from openai_facade.responses.asked import Asked
from openai_facade.responses.context import Memory
from openai_facade.responses.failure import failure_of
from openai_facade.responses.keeping import Kept, keep
from openai_facade.responses.tools import ResponseToolbox
from openai_facade.translate.response_events import Event, ResponseEvents
from openai_facade.translate.response_object import Item, Response
from openai_facade.translate.response_request import wants_logprobs
from openai_facade.translate.response_search import Sources
from openai_facade.translate.response_shorten import shortened
from openai_facade.translate.run_events import Asked as AskedByRun
from openai_facade.wire.responses import conversation_id


class Answering:
    """One response in the making. `failure` is why it failed, if it did.

    `waits` while its calls wait for people: what it told last is not its end then.
    """

    def __init__(
        self,
        facade: Facade,
        principal: Principal,
        asked: Asked,
        response: Response,
        sequence: int,
        memory: Memory | None,
    ) -> None:
        self.failure: AppError | None = None
        self.waits = False
        self._facade = facade
        self._principal = principal
        self._asked = asked
        self._memory = memory
        self._resumed = sequence > 0
        self._sources = Sources()
        body = asked.body
        self._told = ResponseEvents(
            response,
            asked.tools.calls,
            self._sources,
            sequence=sequence,
            logprobs=wants_logprobs(body),
            show_results="file_search_call.results" in (body.get("include") or ()),
        )

    @property
    def response(self) -> Response:
        """The object as it is now."""
        return self._told.response

    @property
    def hidden(self) -> dict[str, dict[str, Any]]:
        """By item id, the fields that are shown only to who asks for them."""
        return self._told.hidden

    @property
    def read(self) -> list[Item]:
        """All that the model read: what it goes on from, and its request's own items."""
        return self._asked.context.items

    @property
    def answered(self) -> list[Answered]:
        """What its request says to what other responses asked."""
        return self._asked.answered

    @property
    def own(self) -> list[Item]:
        """The items of its request, each with its id."""
        return self._asked.context.own

    def remember_hidden(self, hidden: Mapping[str, dict[str, Any]]) -> None:
        """Take in what an earlier attempt's items hold without showing it."""
        self._told.hidden.update(hidden)

    @property
    def has_effects(self) -> bool:
        """Tell whether a tool was begun: to ask again would then run it again."""
        return self._told.has_effects

    async def events(self, *, steps: Steps | None = None) -> AsyncGenerator[Event, None]:
        """Answer: every event of the stream, the last one when the response is stored.

        An `AppError` ends it as `failed`, after an error event; the error itself is `failure` then. A
        response that failed before it held anything is not stored: a door answers with the error. With
        `steps` it may be interrupted anywhere and go on, see `run_loop`, and it waits for the answers
        to its approval requests.
        """
        for event in self._begin():
            yield event
        try:
            async with aclosing(self._answer(steps)) as events:
                async for event in events:
                    yield event
            await self._store(steps)
        except LeaseLost:
            raise  # another worker goes on with it
        except AppError as error:
            self.failure = error
            code, message, body = failure_of(error)
            for event in self._told.fail(code, message):
                yield event
            if self.response["output"] or self.response["background"]:
                await self._keep_failed(steps)  # first: SDKs leave when they read of the error
            yield self._told.error(body)
        yield self._told.last()

    def _begin(self) -> list[Event]:
        if self._resumed:
            return self._told.resume()
        queued = self.response["status"] == "queued"
        return [*self._told.begin(), *(self._told.resume() if queued else ())]

    async def _answer(self, steps: Steps | None) -> AsyncGenerator[Event, None]:
        for event in self._list_servers():
            yield event
        toolbox = self._toolbox()
        number, requests, usages = 1, list[Item](), list[dict[str, Any]]()
        answered: list[Answered] | None = self._asked.answered
        while answered is not None:
            approvals = answer_approvals(self._told, toolbox, answered, steps)
            async with aclosing(approvals) as events:
                async for event in events:
                    yield event
            stored = f"round/{number}"
            if steps is None or not steps.finished(stored):
                async with aclosing(
                    self._round(toolbox, steps, number, requests, usages)
                ) as round_:
                    async for event in round_:
                        yield event
            if steps is None or not steps.finished(stored):
                return
            known = steps.result(stored)
            usages.append(known["usage"])
            requests = [each for each in self.response["output"] if each["id"] in known["asked"]]
            self.waits = True
            answered = await rounds.answers_of(steps, requests)
            self.waits = False
            number += 1
            if answered is not None:
                for event in self._told.reopen():
                    yield event
                await self._store(steps)  # so that nobody goes on from what it was

    async def _round(
        self,
        toolbox: ResponseToolbox,
        steps: Steps | None,
        number: int,
        requests: list[Item],
        usages: list[dict[str, Any]],
    ) -> AsyncGenerator[Event, None]:
        """Run one loop; the first one, or what follows the answers to `requests`."""
        finished: Finished | None = None
        async with aclosing(self._loop(toolbox, steps, number, requests)) as loop:
            async for happened in loop:
                if isinstance(happened, Finished):
                    finished = happened
                for event in self._tell(happened):
                    yield event
        if finished is None:
            raise Unavailable("the model ended its answer before it began; try again")
        usage = finished.usage
        if usages:
            finished = replace(finished, usage=sum_usage([*usages, usage]))
        for event in self._told.finish(finished, at=int(time.time())):
            yield event
        if steps is None or conversation_id(self._asked.body) is not None:
            return
        asked = rounds.asked_by(finished, self._asked.tools.calls, self.response["output"])
        if asked:
            self.waits = True
            yield self._told.last()
            await self._store(steps)
            known = {"asked": [item["id"] for item in asked], "usage": usage}
            await steps.store(f"round/{number}", known)

    def _tell(self, happened: LoopEvent | AskedByRun) -> list[Event]:
        if isinstance(happened, AskedByRun):
            return self._told.asked_by_run(happened)
        of_agent = self._asked.model is None and isinstance(happened, TurnFinished)
        if of_agent or isinstance(happened, Finished):  # what an agent says is one text
            return []
        return self._told.feed(happened)

    def _list_servers(self) -> list[Event]:
        listed = {item["server_label"] for item in self._of_type("mcp_list_tools")}
        told: list[Event] = []
        for label, tools in self._asked.tools.listings:
            told += [] if label in listed else self._told.listed(label, tools)
        for label, why in self._asked.tools.not_listed:
            told += [] if label in listed else self._told.not_listed(label, why)
        return told

    async def _loop(
        self, toolbox: ResponseToolbox, steps: Steps | None, number: int, requests: list[Item]
    ) -> AsyncGenerator[Any, None]:
        """Ask the model; with truncation auto, again with a shorter context if it was too long."""
        begin = rounds.begun_at(self.response["output"], requests)
        told = rounds.told_in(self.response["output"][begin:])
        request = self._request(self.response["output"][:begin])
        media = self._facade.services.media
        request["messages"] = await with_media(media, self._principal, request["messages"])
        while True:
            begun = False
            try:
                own = rounds.steps_of(steps, number)
                async with aclosing(self._run(request, toolbox, own, told)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except UpstreamError as error:
                shorter = shortened(request["messages"])
                if begun or shorter is None or not self._may_shorten(error):
                    raise
                request = request | {"messages": shorter}

    def _run(
        self, request: ChatRequest, toolbox: ResponseToolbox, steps: Steps | None, told: Told
    ) -> AsyncGenerator[Any, None]:
        model = self._asked.model
        if self._asked.continued is not None:
            return continue_run(self._facade, self._principal, self._asked.continued)
        if model is None:  # another worker may go on with its run, and so does what it tells
            return agent_events(self._facade, self._principal, request, self._asked.joined)
        return run_loop(
            model,
            toolbox,
            request,
            self._facade.limits,
            self._asked.tools.of_client,
            steps=steps,
            told=told,
            by_item=True,
        )

    def _may_shorten(self, error: UpstreamError) -> bool:
        too_long = error.body.get("code") == "context_length_exceeded"
        return too_long and self._asked.body.get("truncation") == "auto"

    def _request(self, before: list[Item]) -> ChatRequest:
        """Give the chat request; `before` are the items of the rounds before, else calls just allowed."""
        if not before:
            calls = self._of_type("mcp_call")
            before = [item for item in calls if item.get("approval_request_id")]
        hidden = self._told.hidden
        made = [{**item, **hidden.get(item["id"], {})} for item in before]
        return self._asked.chat(made, self._sources)

    def _of_type(self, kind: str) -> list[Item]:
        return [item for item in self.response["output"] if item["type"] == kind]

    def _toolbox(self) -> ResponseToolbox:
        most = self._asked.body.get("max_tool_calls")
        return ResponseToolbox(
            *(self._facade.bus, self._facade.services.outside_tools, self._principal),
            *(self._asked.tools, self._sources),
            self._told.found,
            most,
            made=len(rounds.told_in(self.response["output"]).calls_finished),
        )

    async def _store(self, steps: Steps | None) -> None:
        asked, hidden = self._asked, self._told.hidden
        kept = Kept(asked.body, asked.context.own, self.response, hidden, asked.previous)
        await keep(self._facade, self._principal, kept, self._memory, steps)

    async def _keep_failed(self, steps: Steps | None) -> None:
        """Store what came before the failure; that this fails too must not hide the first one."""
        try:
            await self._store(steps)
        except AppError:
            return
