"""Answers a response's request as a stream of events, for whoever asks: a door, a run, a socket."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from mcp_server.agents.events import Finished, TurnFinished
from mcp_server.agents.loop import run_loop
from mcp_server.agents.steps import NOTHING_TOLD, Steps, Told
from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, LeaseLost, Unavailable
from mcp_server.llm import ChatRequest, Model, UpstreamError
from mcp_server.services.responses import StoredResponse
from openai_facade.agent_chat import agent_events
from openai_facade.chat_media import with_media
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.responses.approvals import Answered, answer_approvals, read_approvals
from openai_facade.responses.context import Begun, Context, Memory, load_context
from openai_facade.responses.failure import failure_of
from openai_facade.responses.tools import ResponseToolbox, ToolSet, gather_tools
from openai_facade.translate.response_events import Event, ResponseEvents
from openai_facade.translate.response_messages import messages_of_items
from openai_facade.translate.response_object import Item, Response, new_response, response_id
from openai_facade.translate.response_request import chat_request, wants_logprobs
from openai_facade.translate.response_search import Sources
from openai_facade.translate.response_shorten import shortened
from openai_facade.wire.faults import unsupported
from openai_facade.wire.responses import check_response, conversation_id


async def begin(
    facade: Facade,
    principal: Principal,
    body: dict[str, Any],
    *,
    memory: Memory | None = None,
    begun: Begun | None = None,
) -> Answering:
    """Check a request and read what it goes on from; nothing is asked of a model yet.

    Raises:
        AppError: the request does not fit, or names what is not there.
    """
    model_id = check_response(body)
    context = await load_context(facade.services.responses, memory, principal, body)
    tools = await gather_tools(
        *(facade.bus, facade.services.outside_tools, principal, body, context.items)
    )
    answered = read_approvals(context, tools.calls)
    messages_of_items(context.items, Sources())  # so that a gap shows before anything is told
    model, known_as = None, model_id
    if not model_id.startswith(AGENT_PREFIX):
        model, known_as = await facade.router.resolve(model_id)
    elif body.get("tools"):
        raise unsupported("tools", "an agent has the tools of its definition; leave it out.")
    response = (
        new_response(body, response=response_id(), created_at=int(time.time()))
        if begun is None
        else begun.response
    )
    asked = Asked(body, context, tools, answered, model, known_as)
    sequence = 0 if begun is None else begun.sequence
    return Answering(facade, principal, asked, response, sequence, memory)


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked request with all that it names; without `model` an agent answers, of id `known_as`."""

    body: dict[str, Any]
    context: Context
    tools: ToolSet
    answered: list[Answered]
    model: Model | None
    known_as: str


class Answering:
    """One response in the making. `failure` is why it failed, if it did."""

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
    def own(self) -> list[Item]:
        """The items of its request, each with its id."""
        return self._asked.context.own

    @property
    def has_effects(self) -> bool:
        """Tell whether a tool was begun: to ask again would then run it again."""
        return self._told.has_effects

    async def events(
        self, *, steps: Steps | None = None, told: Told = NOTHING_TOLD
    ) -> AsyncGenerator[Event, None]:
        """Answer: every event of the stream, the last one when the response is stored.

        An `AppError` ends it as `failed`, after an error event; the error itself is `failure` then. A
        response that failed before it held anything is not stored: a door answers with the error. With
        `steps` and `told` it may be interrupted anywhere and go on: see `run_loop`.
        """
        for event in self._begin():
            yield event
        try:
            async with aclosing(self._answer(steps, told)) as events:
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

    async def _answer(self, steps: Steps | None, told: Told) -> AsyncGenerator[Event, None]:
        for event in self._list_servers():
            yield event
        toolbox = self._toolbox()
        approvals = answer_approvals(self._told, toolbox, self._asked.answered, steps)
        async with aclosing(approvals) as events:
            async for event in events:
                yield event
        finished: Finished | None = None
        async with aclosing(self._loop(toolbox, steps, told)) as loop:
            async for happened in loop:
                if isinstance(happened, Finished):
                    finished = happened
                    continue
                if self._asked.model is None and isinstance(happened, TurnFinished):
                    continue  # what an agent says is one text
                for event in self._told.feed(happened):
                    yield event
        if finished is None:
            raise Unavailable("the model ended its answer before it began; try again")
        for event in self._told.finish(finished, at=int(time.time())):
            yield event

    def _list_servers(self) -> list[Event]:
        listed = {item["server_label"] for item in self._of_type("mcp_list_tools")}
        told: list[Event] = []
        for label, tools in self._asked.tools.listings:
            told += [] if label in listed else self._told.listed(label, tools)
        for label, why in self._asked.tools.not_listed:
            told += [] if label in listed else self._told.not_listed(label, why)
        return told

    async def _loop(
        self, toolbox: ResponseToolbox, steps: Steps | None, told: Told
    ) -> AsyncGenerator[Any, None]:
        """Ask the model; with truncation auto, again with a shorter context if it was too long."""
        request = self._request()
        media = self._facade.services.media
        request["messages"] = await with_media(media, self._principal, request["messages"])
        while True:
            begun = False
            try:
                async with aclosing(self._run(request, toolbox, steps, told)) as events:
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
        if model is None:  # another worker may go on with its run, and so does what it tells
            return agent_events(self._facade, self._principal, request)
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

    def _request(self) -> ChatRequest:
        """Give the chat request: instructions, what it goes on from, its input, and calls just allowed."""
        context = self._asked.context
        calls = self._of_type("mcp_call")
        approved = [item for item in calls if item.get("approval_request_id")]
        items = [*context.instructions, *context.items, *approved]
        self._sources.files.clear()
        messages = messages_of_items(items, self._sources)
        tools = self._asked.tools
        shown = [*tools.shown, *tools.made]
        body, choice = self._asked.body, tools.choice
        request = chat_request(body, self._asked.known_as, messages, shown, choice)
        if tools.made:  # the loop adds these itself
            request["tools"] = tools.shown
        return request

    def _of_type(self, kind: str) -> list[Item]:
        return [item for item in self.response["output"] if item["type"] == kind]

    def _toolbox(self) -> ResponseToolbox:
        most = self._asked.body.get("max_tool_calls")
        return ResponseToolbox(
            *(self._facade.bus, self._facade.services.outside_tools, self._principal),
            *(self._asked.tools, self._sources),
            self._told.found,
            most,
        )

    async def _store(self, steps: Steps | None) -> None:
        body = self._asked.body
        own = self._asked.context.own
        conversation = conversation_id(body)
        if body.get("store") is not False:
            stored = StoredResponse(
                id=self.response["id"],
                model=body["model"],
                input=own,
                response=self.response,
                hidden=self._told.hidden,
                previous=body.get("previous_response_id"),
                conversation=conversation,
            )
            key = None if steps is None else steps.key("store")
            await self._facade.services.responses.store(self._principal, stored, key=key)
        if conversation is not None and self._memory is not None:
            output = [
                {**item, **self._told.hidden.get(item["id"], {})}
                for item in self.response["output"]
            ]
            await self._memory.remember(self._principal, conversation, [*own, *output])

    async def _keep_failed(self, steps: Steps | None) -> None:
        """Store what came before the failure; that this fails too must not hide the first one."""
        try:
            await self._store(steps)
        except AppError:
            return
