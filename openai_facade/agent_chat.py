"""A chat with an agent: its run, followed to its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from anyio import CancelScope

from mcp_server.agents.events import Finished, LoopEvent, TextDelta
from mcp_server.agents.turn_request import wants_json
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.llm import ChatRequest
from mcp_server.llm.wire import sum_usage
from mcp_server.services.conversations import ConversationLocked
from mcp_server.services.runs import RunItem
from openai_facade.chat_tools import send_loop
from openai_facade.delivery import Delivery
from openai_facade.exchange import Exchange
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.run_answers import RunAnswer, answered_call
from openai_facade.translate.agent_variables import refused_variables, variables_of
from openai_facade.translate.loop_answer import Trace
from openai_facade.translate.mcp_opt_in import asks_for_servers, require_one_answer
from openai_facade.translate.run_events import (
    Asked,
    asked_in_response,
    call_asked,
    loop_event,
    run_failure,
)
from openai_facade.translate.run_text import RunText, as_one_answer, begun_anew
from openai_facade.wire.conversations import locked
from openai_facade.wire.faults import unsupported

# What the run gets in its own way; every other field goes to each turn of the model.
_NOT_OPTIONS = ("model", "messages", "stream", "stream_options", "metadata", "store", "user")


@dataclass(frozen=True, slots=True)
class Joined:
    """The conversation that an agent's run goes on with, and the items that the request adds to it."""

    conversation: str
    items: list[dict[str, Any]]


async def answer_as_agent(
    facade: Facade,
    exchange: Exchange,
    principal: Principal,
    body: ChatRequest,
    delivery: Delivery,
) -> None:
    """Run the agent that the model id names, or go on with its run that asked, and answer with what it says.

    A client that leaves cancels the run. A run that is interrupted goes on with another worker, and
    so does the stream of its answer: as one message with one finish_reason, in which the text of a
    turn that had to begin anew follows the incomplete one after a blank line. What the run asks of a
    person ends the answer as the call of a function, whose result goes on with the run.

    Variables of its instructions come in the metadata, as `variable.NAME`.

    Raises:
        AppError: there is no such agent, the request does not fit, or the run failed. Conflict: what
            it answers was answered already.
    """
    _require_no_tools(body)
    require_one_answer(body)
    said = await _answer_of(facade, principal, body)
    if said is None:
        run, after = (await _unbroken(start_agent(facade, principal, body)))["run"], 0
    else:
        await said.give(facade, principal)
        run, after = said.run, said.after
    trace = Trace(lambda name: name, run=run)
    try:
        text = RunText(whole_turns=wants_json(body))
        followed = _follow(facade, principal, run, text, asked_by=call_asked, after=after)
        await send_loop(delivery, trace, as_one_answer(followed, goes_on=said is not None))
    finally:
        if trace.has_effects:
            exchange.forbid_retry()


async def _answer_of(facade: Facade, principal: Principal, body: ChatRequest) -> RunAnswer | None:
    """Give what a chat says to the question of a run: its last message does, by the id of the call."""
    last = len(body["messages"]) - 1
    message = body["messages"][last]
    if message["role"] != "tool":
        return None
    place = f"messages[{last}]."
    call, content = message["tool_call_id"], message["content"]
    answered = await answered_call(
        facade, principal, body["model"], call, content, (f"{place}tool_call_id", f"{place}content")
    )
    return None if answered is None else answered[1]


async def agent_events(
    facade: Facade, principal: Principal, body: ChatRequest, joined: Joined | None = None
) -> AsyncGenerator[LoopEvent | Asked, None]:
    """Run the agent that the model id of a chat body names, and give what its loop tells.

    It goes on with the conversation that it has `joined`, once its turn has come.

    Where the run waits for a person, this ends with the question and a Finished, and the run waits on. To close this before cancels the run.

    Raises:
        AppError: there is no such agent, the request does not fit, or the run failed.
    """
    _require_no_tools(body)
    run = await _unbroken(start_agent(facade, principal, body, joined))
    text = RunText(whole_turns=wants_json(body))
    followed = _follow(facade, principal, run["run"], text, asked_by=asked_in_response)
    async with aclosing(followed) as events:
        async for event in events:
            yield event


async def agent_goes_on(
    facade: Facade, principal: Principal, run: str, after: int
) -> AsyncGenerator[LoopEvent | Asked, None]:
    """Give what the loop of an agent's run tells after event `after`; to close this leaves the run alone.

    Raises:
        AppError: the run failed.
    """
    text = RunText(whole_turns=False)
    followed = _follow(
        facade, principal, run, text, asked_by=asked_in_response, after=after, own=False
    )
    async with aclosing(begun_anew(followed)) as events:
        async for event in events:
            yield event


async def start_agent(
    facade: Facade, principal: Principal, body: ChatRequest, joined: Joined | None = None
) -> RunItem:
    options = {name: value for name, value in body.items() if name not in _NOT_OPTIONS}
    name = body["model"].removeprefix(AGENT_PREFIX)
    try:
        return await facade.services.runs.start(
            principal,
            name,
            body["messages"],
            options=options,
            variables=variables_of(body),
            conversation=joined and joined.conversation,
            said=joined and joined.items,
        )
    except ConversationLocked as error:
        raise locked(error.message) from error
    except NotFound as error:
        raise NotFound(error.message, param=error.param or "model") from error
    except InvalidInput as error:
        if error.param == "conversation":
            raise
        if error.param == "variables":
            raise refused_variables(error) from error
        if error.param == "name":
            raise NotFound(f"agent {name!r} does not exist", param="model") from error
        raise InvalidInput(error.message, param="messages") from error


async def _follow(
    facade: Facade,
    principal: Principal,
    run: str,
    text: RunText,
    *,
    asked_by: Callable[[str, Mapping[str, Any]], Asked],
    after: int = 0,
    own: bool = True,
) -> AsyncGenerator[Any, None]:
    """Follow a run to its end, or to what it asks of a person: as `asked_by` shows it, and a Finished."""
    runs = facade.services.runs
    last: dict[str, Any] = {}
    usages: list[dict[str, Any]] = []
    ended = False
    try:
        async with aclosing(runs.follow(principal, run, after)) as events:
            async for last in events:
                if await _is_asked(facade, principal, run, last):
                    ended = True
                    yield asked_by(run, last["request"])
                    yield Finished({"role": "assistant"}, "tool_calls", sum_usage(usages), [])
                    return
                if last["type"] == "turn_finished":
                    usages.append(last["usage"])
                for delta in text.feed(last):
                    yield delta
                event = loop_event(last)
                ended = isinstance(event, Finished)
                if after and isinstance(event, Finished):  # what was used before was told before
                    event = replace(event, usage=sum_usage(usages))
                if event is not None and not isinstance(event, TextDelta):
                    yield event
                if ended:
                    return
        ended = True
        raise run_failure(last)
    finally:
        if own and not ended:
            with CancelScope(shield=True):
                await runs.cancel(principal, run)


async def _is_asked(facade: Facade, principal: Principal, run: str, event: dict[str, Any]) -> bool:
    """Tell whether an event of a run asks something that is still open."""
    if event["type"] != "status" or event["status"] != "input_required":
        return False
    now = await facade.services.runs.get(principal, run)
    return now["request"] is not None and now["request"]["id"] == event["request"]["id"]


async def _unbroken(starting: Awaitable[RunItem]) -> RunItem:
    """Wait also if the client leaves: a start cut in the middle would leave a run that nobody stops."""
    with CancelScope(shield=True):
        return await starting
    raise AssertionError("a shield holds nothing back")


def _require_no_tools(body: ChatRequest) -> None:
    for name in ("tools", "functions"):
        if body.get(name):
            raise unsupported(
                name, "an agent has the tools of its definition; change them with agent_save."
            )
    if asks_for_servers(body):
        raise unsupported(
            "metadata.mcp_servers", "an agent has the tools of its definition; leave it out."
        )
