"""Responses in the background: started as runs, read and followed while they run, from any process."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound
from mcp_server.runs.record import new_run_id
from mcp_server.services.responses import StoredResponse, model_uri
from mcp_server.services.run_results import RESPONSE_KIND, RunItem
from openai_facade.facade import Facade
from openai_facade.responses.beginning import begin
from openai_facade.responses.context import Begun
from openai_facade.responses.first_answer import settle
from openai_facade.responses.memory import remembering
from openai_facade.responses.rounds import pending
from openai_facade.translate.response_events import Event
from openai_facade.translate.response_fold import fold
from openai_facade.translate.response_object import ENDED, SECRET, Response, new_response
from openai_facade.translate.run_ids import response_of, run_of
from openai_facade.wire.faults import InvalidRequest, invalid, unsupported
from openai_facade.wire.responses import conversation_id

_RUN_ENDED = frozenset({"completed", "failed", "cancelled", "expired"})
_PAGE = 1000
# What a stream ends with.
LAST = frozenset(f"response.{status}" for status in ENDED)


async def start(facade: Facade, principal: Principal, body: dict[str, Any]) -> Response:
    """Check a request as any other, and leave it to a worker; gives the response, `queued`.

    Raises:
        AppError: the request does not fit, names what is not there, or too many runs wait.
    """
    require_stored(body)
    _refuse_secrets(body)
    run = new_run_id()
    response = response_of(run)
    queued = new_response(body, response=response, created_at=int(time.time()))
    queued["status"] = "queued"
    async with remembering(facade, principal, body, response) as memory:
        checked = await begin(facade, principal, body, memory=memory, begun=Begun(dict(queued), 0))
    await settle(facade, principal, checked.answered)
    stored = StoredResponse(
        id=response,
        model=body["model"],
        input=checked.own,
        response=queued,
        previous=body.get("previous_response_id"),
        conversation=conversation_id(body),
    )
    await facade.services.responses.store(principal, stored)
    # With their ids: each attempt has the same input.
    given = {"body": body | {"input": checked.own}, "response": queued}
    uri = model_uri(body["model"])
    await facade.services.runs.start_response(principal, uri, run, given)
    return queued


def require_stored(body: Mapping[str, Any]) -> None:
    """See that a request does not refuse what a response in the background needs.

    Raises:
        InvalidRequest: it does.
    """
    if body.get("store") is False:
        raise InvalidRequest(
            "Background responses are read later, so they must be stored: leave 'store' out.",
            param="store",
            wire_code="invalid_value",
        )


def _refuse_secrets(body: Mapping[str, Any]) -> None:
    """Refuse what a run would have to keep: what a client entrusts to this server for another one."""
    for index, tool in enumerate(body.get("tools") or ()):
        for name in SECRET:
            if tool.get(name):
                raise unsupported(
                    f"tools[{index}].{name}",
                    "it is kept nowhere, so a response in the background cannot use it.",
                )


async def now(facade: Facade, principal: Principal, stored: StoredResponse) -> Response:
    """Give a stored response as it is by now, also when its run ended without a word of its own.

    One whose calls wait for people is `completed`, and its last items are what it asks; answered
    over MCP, it goes on. So a client that asks until there is an end is not kept waiting.
    """
    over = is_over(stored.response)
    if over and not (stored.conversation and stored.response["background"]):
        return stored.response
    run = await _find(facade, principal, stored.id)
    if over and (run is None or run["ended_at"] is not None):
        return stored.response  # before, its conversation may not hold it yet
    if run is None:
        return (
            stored.response if stored.response["status"] in ENDED else _broken(stored.response, run)
        )
    told = [event async for event in _told(facade, principal, stored.id)]
    response = fold(told) or dict(stored.response)
    if run["status"] in _RUN_ENDED:
        own_word = response["status"] in ENDED and run["status"] in {"completed", "failed"}
        failed = response["status"] == "failed"
        return (
            response
            if own_word and failed == (run["status"] == "failed")
            else _broken(response, run)
        )
    if response["status"] in ENDED and run["status"] != "input_required":
        return response | {"status": "in_progress", "completed_at": None}  # just answered
    return response


def is_over(response: Response) -> bool:
    """Tell whether a response as it is stored can change no more."""
    waits = response["background"] and pending(response)
    return response["status"] in ENDED and not waits


async def cancel(facade: Facade, principal: Principal, stored: StoredResponse) -> Response:
    """End a response that is being made; one that has ended stays as it is.

    Raises:
        InvalidRequest: it was not made in the background.
    """
    if not stored.response.get("background"):
        raise InvalidRequest(
            "Cannot cancel a synchronous response: only those with background=true can be cancelled.",
            param="response_id",
            wire_code=None,
        )
    if is_over(stored.response):
        return stored.response
    if await _find(facade, principal, stored.id) is not None:
        await facade.services.runs.cancel(principal, run_of(stored.id))
        stored = await facade.services.responses.get(principal, stored.id)
    return await now(facade, principal, stored)


async def check_followable(facade: Facade, principal: Principal, stored: StoredResponse) -> None:
    """See that the events of a response are kept.

    Raises:
        InvalidRequest: they are not.
    """
    if await _find(facade, principal, stored.id) is None:
        raise without_events()


def without_events() -> InvalidRequest:
    """Tell that a response cannot be followed."""
    return invalid(
        "stream",
        "this response has no events: only those made in the background keep them, for a time.",
    )


async def follow(
    facade: Facade, principal: Principal, response: str, after: int
) -> AsyncGenerator[Event, None]:
    """Yield the events of a response with a number over `after`, as they are stored, up to its last.

    Where its calls wait for people, that is the last one for now; what follows the answers is told
    to who asks again.
    """
    last: Event | None = None
    async with aclosing(_told(facade, principal, response, after, live=True)) as events:
        async for event in events:
            last = event
            yield event
    run = await _find(facade, principal, response)
    if last is None:
        told = [event async for event in _told(facade, principal, response)]
        last = told[-1] if told else None
    if last is not None and last["type"] in LAST and not _cut(last, run):
        return
    number = last["sequence_number"] + 1 if last is not None else 0
    if number > after:
        why = _reason(run)
        body = {"message": why["message"], "type": "server_error", "param": None}
        flat = {"code": why["code"], "message": why["message"], "param": None}
        error = body | {"code": why["code"]}
        yield {"type": "error", "sequence_number": number, **flat, "error": error}


def _cut(last: Event, run: RunItem | None) -> bool:
    """Tell whether a run ended after it had asked, without a word."""
    if run is None or run["status"] not in _RUN_ENDED:
        return False
    return run["status"] != ("failed" if last["type"] == "response.failed" else "completed")


async def _told(
    facade: Facade, principal: Principal, response: str, after: int = -1, *, live: bool = False
) -> AsyncGenerator[Event, None]:
    """Yield the stored events with a number over `after`; those to come too if `live`.

    A run tells other things in between, so the log's number of an event is at least its own plus one.
    """
    runs, run, at = facade.services.runs, run_of(response), max(after + 1, 0)
    if live:
        async with aclosing(runs.follow(principal, run, at)) as events:
            async for event in events:
                if event.get("sequence_number", -1) > after:
                    yield plain(event)
                elif _asks(event):
                    now = await _find(facade, principal, response)
                    if now is None or now["request"] is not None:
                        return
        return
    while True:
        page = await runs.events(principal, run, at, _PAGE)
        for event in page["items"]:
            if event.get("sequence_number", -1) > after:
                yield plain(event)
        if not page["items"]:
            return
        at = page["next_after"]


def _asks(event: Mapping[str, Any]) -> bool:
    return event["type"] == "status" and event["status"] == "input_required"


def plain(event: Mapping[str, Any]) -> Event:
    """Give a stored event as it was told."""
    return {name: value for name, value in event.items() if name != "seq"}


def numbered(events: Iterable[Mapping[str, Any]]) -> list[Event]:
    """Give those events of a run that are events of its response."""
    return [plain(event) for event in events if "sequence_number" in event]


async def _find(facade: Facade, principal: Principal, response: str) -> RunItem | None:
    try:
        run = await facade.services.runs.get(principal, run_of(response))
    except NotFound:
        return None
    return run if run["kind"] == RESPONSE_KIND else None


def _broken(response: Response, run: RunItem | None) -> Response:
    """Give a response whose run ended before it could say so itself."""
    output = [
        item | {"status": "incomplete"}
        if item.get("status") in {"in_progress", "searching"}
        else item
        for item in response["output"]
    ]
    if run is not None and run["status"] == "cancelled":
        return response | {"output": output, "status": "cancelled"}
    error = {"code": "server_error", "message": _reason(run)["message"]}
    return response | {"output": output, "status": "failed", "error": error}


def _reason(run: RunItem | None) -> dict[str, str]:
    if run is not None and run["status"] == "cancelled":
        return {"code": "cancelled", "message": "The response was cancelled."}
    error = None if run is None else run["error"]
    if error is None:
        return {"code": "server_error", "message": "The response ended before it was complete."}
    return {"code": error["code"], "message": error["message"]}
