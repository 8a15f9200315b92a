"""A chat with an agent: its run, followed to its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from anyio import CancelScope

from mcp_server.agents.events import Finished, LoopEvent, TextDelta
from mcp_server.agents.turn_request import wants_json
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.llm import ChatRequest
from mcp_server.services.conversations import ConversationLocked
from mcp_server.services.runs import RunItem
from openai_facade.chat_tools import send_loop
from openai_facade.delivery import Delivery
from openai_facade.exchange import Exchange
from openai_facade.facade import AGENT_PREFIX, Facade
from openai_facade.translate.loop_answer import Trace
from openai_facade.translate.mcp_opt_in import asks_for_servers, require_one_answer
from openai_facade.translate.run_events import (
    ApprovalAsked,
    approval_asked,
    loop_event,
    run_failure,
)
from openai_facade.translate.run_text import RunText
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
    """Run the agent that the model id names, and answer with what it says.

    A client that leaves cancels the run. A run that is interrupted goes on with another worker, and
    so does the stream of its answer: as one message with one finish_reason, in which the text of a
    turn that had to begin anew follows the incomplete one after a blank line. A run that waits for a
    person lets the client wait too.

    Raises:
        AppError: there is no such agent, the request does not fit, or the run failed.
    """
    _require_no_tools(body)
    require_one_answer(body)
    run = await _unbroken(start_agent(facade, principal, body))
    trace = Trace(lambda name: name, run=run["run"])
    try:
        text = RunText(whole_turns=wants_json(body))
        events = _follow(facade, principal, run["run"], text)
        await send_loop(delivery, trace, events)
    finally:
        if trace.has_effects:
            exchange.forbid_retry()


async def agent_events(
    facade: Facade, principal: Principal, body: ChatRequest, joined: Joined | None = None
) -> AsyncGenerator[LoopEvent | ApprovalAsked, None]:
    """Run the agent that the model id of a chat body names, and give what its loop tells.

    It goes on with the conversation that it has `joined`, once its turn has come.

    Where the run waits for a person's approval, this ends with the question and a Finished, and the
    run waits on. To close this before cancels the run.

    Raises:
        AppError: there is no such agent, the request does not fit, or the run failed.
    """
    _require_no_tools(body)
    run = await _unbroken(start_agent(facade, principal, body, joined))
    text = RunText(whole_turns=wants_json(body))
    followed = _follow(facade, principal, run["run"], text, waits=False)
    async with aclosing(followed) as events:
        async for event in events:
            yield event


async def agent_goes_on(
    facade: Facade, principal: Principal, run: str, after: int
) -> AsyncGenerator[LoopEvent | ApprovalAsked, None]:
    """Give what the loop of an agent's run tells after event `after`; to close this leaves the run alone.

    Raises:
        AppError: the run failed.
    """
    text = RunText(whole_turns=False)
    followed = _follow(facade, principal, run, text, after=after, waits=False, own=False)
    begun = False
    async with aclosing(followed) as events:
        async for event in events:
            if isinstance(event, TextDelta) and not begun:
                begun, event = True, replace(event, text=event.text.lstrip("\n"))  # noqa: PLW2901
                if not event.text:
                    continue
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
        if error.param == "name":
            raise NotFound(f"agent {name!r} does not exist", param="model") from error
        raise InvalidInput(error.message, param="messages") from error


async def _follow(
    facade: Facade,
    principal: Principal,
    run: str,
    text: RunText,
    *,
    after: int = 0,
    waits: bool = True,
    own: bool = True,
) -> AsyncGenerator[Any, None]:
    """Follow a run; unless this `waits` for a person as well, an approval that it asks is the end."""
    runs = facade.services.runs
    last: dict[str, Any] = {}
    ended = False
    try:
        async with aclosing(runs.follow(principal, run, after)) as events:
            async for last in events:
                asked = None if waits else await _open_approval(facade, principal, run, last)
                if asked is not None:
                    ended = True
                    yield asked
                    yield Finished({"role": "assistant"}, "tool_calls", {}, [])
                    return
                for delta in text.feed(last):
                    yield delta
                event = loop_event(last)
                ended = isinstance(event, Finished)
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


async def _open_approval(
    facade: Facade, principal: Principal, run: str, event: dict[str, Any]
) -> ApprovalAsked | None:
    """Give the approval that an event of a run asks for, if it is still open."""
    if event["type"] != "status" or event["status"] != "input_required":
        return None
    asked = approval_asked(run, event["request"])
    if asked is None:
        return None
    now = await facade.services.runs.get(principal, run)
    still = now["request"] is not None and now["request"]["id"] == event["request"]["id"]
    return asked if still else None


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
