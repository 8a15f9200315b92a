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
from openai_facade.responses.context import Begun
from openai_facade.responses.engine import begin
from openai_facade.responses.memory import remembering
from openai_facade.translate.response_events import Event
from openai_facade.translate.response_fold import fold
from openai_facade.translate.response_object import ENDED, SECRET, Response, new_response
from openai_facade.wire.faults import InvalidRequest, invalid, unsupported
from openai_facade.wire.responses import conversation_id

_RUN, _RESPONSE = "run_", "resp_"
_RUN_ENDED = frozenset({"completed", "failed", "cancelled", "expired"})
_PAGE = 1000
# What a stream ends with.
LAST = frozenset(f"response.{status}" for status in ENDED)


def run_of(response: str) -> str:
    """Give the id of the run that makes a response: one record, two faces."""
    return f"{_RUN}{response.removeprefix(_RESPONSE)}"


async def start(facade: Facade, principal: Principal, body: dict[str, Any]) -> Response:
    """Check a request as any other, and leave it to a worker; gives the response, `queued`.

    Raises:
        AppError: the request does not fit, names what is not there, or too many runs wait.
    """
    if body.get("store") is False:
        raise InvalidRequest(
            "Background responses are read later, so they must be stored: leave 'store' out.",
            param="store",
            wire_code="invalid_value",
        )
    _refuse_secrets(body)
    run = new_run_id()
    response = f"{_RESPONSE}{run.removeprefix(_RUN)}"
    queued = new_response(body, response=response, created_at=int(time.time()))
    queued["status"] = "queued"
    async with remembering(facade, principal, body, response) as memory:
        checked = await begin(facade, principal, body, memory=memory, begun=Begun(dict(queued), 0))
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

    One in the background has ended when its run has: only then its conversation has what it said.
    """
    ended = stored.response["status"] in ENDED
    if ended and not stored.response.get("background"):
        return stored.response
    run = await _find(facade, principal, stored.id)
    if ended and (run is None or run["status"] in _RUN_ENDED):
        return stored.response
    told = [] if run is None else [event async for event in _told(facade, principal, stored.id)]
    response = fold(told) or dict(stored.response)
    if response["status"] in ENDED:
        return response
    if run is None or run["status"] in _RUN_ENDED:
        return _broken(response, run)
    return response


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
    if stored.response["status"] in ENDED:
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
        raise invalid(
            "stream",
            "this response has no events: only those made in the background keep them, for a time.",
        )


async def follow(
    facade: Facade, principal: Principal, response: str, after: int
) -> AsyncGenerator[Event, None]:
    """Yield the events of a response with a number over `after`, as they are stored, up to its last."""
    last: Event | None = None
    async with aclosing(_told(facade, principal, response, after, live=True)) as events:
        async for event in events:
            last = event
            yield event
    if last is not None and last["type"] in LAST:
        return
    told = [event async for event in _told(facade, principal, response)]
    if told and told[-1]["type"] in LAST:
        return  # the client has had everything
    run = await _find(facade, principal, response)
    number = told[-1]["sequence_number"] + 1 if told else 0
    if number > after:
        why = _reason(run)
        body = {"message": why["message"], "type": "server_error", "param": None}
        flat = {"code": why["code"], "message": why["message"], "param": None}
        error = body | {"code": why["code"]}
        yield {"type": "error", "sequence_number": number, **flat, "error": error}


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
        return
    while True:
        page = await runs.events(principal, run, at, _PAGE)
        for event in page["items"]:
            if event.get("sequence_number", -1) > after:
                yield plain(event)
        if not page["items"]:
            return
        at = page["next_after"]


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
