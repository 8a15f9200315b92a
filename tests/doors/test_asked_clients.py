"""Clients that wait for an agent's run with `agent_run`, and are asked in their user's name what it asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestFormParams, ElicitResult, InputRequiredResult

from tests.doors.fixtures import make_key
from tests.doors.live import Live, http_client, open_live, serving, stdio_parameters
from tests.doors.odd_model import OddModel

ERAS = ("http", "http-legacy", "sse", "sse-modern")
ASKED: Any = {
    "message": "How many?",
    "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
}
Answering = Callable[[ElicitRequestFormParams], Awaitable[ElicitResult]]


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving(OddModel().app))
        opened = open_live(scratch / "asked", llm_url=(f"{upstream}/v1",))
        yield await stack.enter_async_context(opened)


class Person:
    """A user: fills each form as told, by one answer after the other, and keeps what was shown."""

    def __init__(self, *answers: ElicitResult | Answering) -> None:
        self._answers = list(answers)
        self.forms: list[ElicitRequestFormParams] = []

    async def __call__(self, _: Any, params: Any) -> ElicitResult:
        self.forms.append(params)
        answer = self._answers.pop(0)
        return answer if isinstance(answer, ElicitResult) else await answer(params)


def accept(**content: Any) -> ElicitResult:
    return ElicitResult(action="accept", content=content)


DECLINE, CANCEL = ElicitResult(action="decline"), ElicitResult(action="cancel")


@asynccontextmanager
async def connected(
    live: Live, door: str, person: Person | None, key: str | None = None
) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key or live.key}"}
    legacy: dict[str, Any] = {} if door in {"http", "sse-modern", "stdio"} else {"mode": "legacy"}
    if person is not None:
        legacy["elicitation_callback"] = person
    async with AsyncExitStack() as stack:
        if door == "stdio":
            target: Any = stdio_client(stdio_parameters(live))
        elif door.startswith("sse"):
            target = sse_client(f"{live.url}/sse", headers=headers)
        else:
            http = await stack.enter_async_context(http_client(headers))
            target = streamable_http_client(f"{live.url}/mcp", http_client=http)
        yield await stack.enter_async_context(Client(target, **legacy))


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return result.structured_content


def wanted(*steps: tuple[str, dict[str, Any]]) -> str:
    listed = [{"tool": tool, "arguments": arguments} for tool, arguments in steps]
    return json.dumps({"steps": listed, "say": "Done."})


async def run_clerk(client: Client, *steps: tuple[str, dict[str, Any]], **more: Any) -> Any:
    """Have an agent whose writes wait for approval make its calls, and wait for its run."""
    fields = {"instructions": "x", "tools": ["kv_set", "ask_person"], "approve": ["kv_set"]}
    await call(client, "agent_save", name="clerk", **fields)
    return await call(client, "agent_run", agent="clerk", input=wanted(*steps), **more)


async def outcomes(client: Client, run: str) -> list[str]:
    told = await call(client, "run_events", run=run, limit=1000)
    return [event["text"] for event in told["items"] if event["type"] == "tool_finished"]


async def runs_of(client: Client) -> int:
    return len((await call(client, "run_list", agent="clerk", limit=1000))["items"])


@pytest.mark.parametrize("door", [*ERAS, "stdio"])
async def test_what_a_run_asks_is_answered_by_the_client_that_waits_and_the_same_run_goes_on(
    live: Live, door: str
) -> None:
    person = Person(accept(approved=True), accept(n=3), accept(approved=True, reason="fine"))
    async with connected(live, door, person) as client:
        fields = {"name": "clerk", "instructions": "x"}
        await call(client, "agent_save", **fields)
        before = await runs_of(client)
        steps = [
            ("kv_set", {"key": f"a-{door}", "value": 1}),
            ("ask_person", ASKED),
            ("kv_set", {"key": f"b-{door}", "value": 2}),
        ]
        done = await run_clerk(client, *steps)
        assert (done["status"], done["output"]) == ("completed", "Done."), done
        assert await runs_of(client) == before + 1
        assert (await call(client, "kv_get", key=f"b-{door}"))["value"] == 2
        assert json.loads((await outcomes(client, done["run"]))[1]) == {"answer": {"n": 3}}
    first, second, third = person.forms
    assert "kv_set" in first.message
    assert "Nothing is there now." in first.message
    assert (second.message, second.requested_schema) == ("How many?", ASKED["schema"])
    assert "approved" in third.requested_schema["properties"]


@pytest.mark.parametrize("door", ERAS)
async def test_an_agents_own_tool_asks_in_the_same_way(live: Live, door: str) -> None:
    person = Person(accept(approved=True))
    fields = {"instructions": "x", "tools": ["kv_set"], "approve": ["kv_set"], "as_tool": True}
    async with connected(live, door, person) as client:
        await call(client, "agent_save", name="shown-clerk", **fields)
        given = wanted(("kv_set", {"key": f"by-tool-{door}", "value": 1}))
        done = await call(client, "agent_shown-clerk", input=given)
        assert (done["status"], done["output"]) == ("completed", "Done.")
        assert (await call(client, "kv_get", key=f"by-tool-{door}"))["value"] == 1


@pytest.mark.parametrize("door", ERAS)
async def test_who_declines_refuses_the_call_and_leaves_the_question_without_an_answer(
    live: Live, door: str
) -> None:
    async with connected(live, door, Person(DECLINE, DECLINE)) as client:
        steps = ("kv_set", {"key": "declined", "value": 1}), ("ask_person", ASKED)
        done = await run_clerk(client, *steps)
        assert done["status"] == "completed", done
        refused, unanswered = await outcomes(client, done["run"])
        assert refused.startswith("forbidden: the call was refused")
        assert unanswered.startswith("forbidden: the person declined the question")
        missing = await client.call_tool("kv_get", {"key": "declined"})
        assert missing.is_error


@pytest.mark.parametrize("door", ERAS)
async def test_who_closes_the_form_leaves_the_run_waiting_for_another_door(
    live: Live, door: str
) -> None:
    person = Person(CANCEL)
    async with connected(live, door, person) as client:
        done = await run_clerk(client, ("kv_set", {"key": f"later-{door}", "value": 1}))
        assert (done["status"], len(person.forms)) == ("input_required", 1)
        assert (await call(client, "run_get", run=done["run"]))["status"] == "input_required"
        await call(client, "run_input", run=done["run"], answer={"approved": True})
        await ended(client, done["run"])
        assert (await call(client, "kv_get", key=f"later-{door}"))["value"] == 1


@pytest.mark.parametrize("door", ERAS)
async def test_an_answer_that_does_not_fit_is_refused_and_asked_again(
    live: Live, door: str
) -> None:
    person = Person(accept(n="many"), accept(m=1), accept(n=4))
    async with connected(live, door, person) as client:
        done = await run_clerk(client, ("ask_person", ASKED))
        assert done["status"] == "completed", done
        assert json.loads((await outcomes(client, done["run"]))[0]) == {"answer": {"n": 4}}
    assert [form.message.partition("\n")[0] for form in person.forms] == ["How many?"] * 3
    assert "answer['n']: 'many'" in person.forms[1].message
    assert "'n' is a required property" in person.forms[2].message


async def test_a_client_that_never_answers_as_asked_is_asked_five_times(live: Live) -> None:
    person = Person(*[accept(n="many")] * 9)
    async with connected(live, "http-legacy", person) as client:
        done = await run_clerk(client, ("ask_person", ASKED))
        assert (done["status"], len(person.forms)) == ("input_required", 5)
        await call(client, "run_cancel", run=done["run"])


@pytest.mark.parametrize("door", ERAS)
async def test_a_client_without_forms_is_told_that_the_run_waits(live: Live, door: str) -> None:
    async with connected(live, door, None) as client:
        done = await run_clerk(client, ("ask_person", ASKED))
        assert done["status"] == "input_required"
        await call(client, "run_cancel", run=done["run"])


@pytest.mark.parametrize("door", ERAS)
async def test_an_answer_at_another_door_counts_and_the_wait_goes_on(live: Live, door: str) -> None:
    closed = asyncio.Event()

    async def answered_elsewhere(_: ElicitRequestFormParams) -> ElicitResult:
        async with connected(live, "http", None) as other:
            page = await call(other, "run_list", status="input_required", limit=10)
            await call(other, "run_input", run=page["items"][0]["run"], answer={"n": 1})
        if door in {"http", "sse-modern"}:  # the call that asked is over: its answer comes too late
            return accept(n=2)
        try:
            await asyncio.Event().wait()  # nobody looks at the form, until the server takes it back
        finally:
            closed.set()
        raise AssertionError("nothing sets the event")

    async with connected(live, door, Person(answered_elsewhere)) as client:
        done = await run_clerk(client, ("ask_person", ASKED))
        assert done["status"] == "completed", done
        assert json.loads((await outcomes(client, done["run"]))[0]) == {"answer": {"n": 1}}
        if door in {"http-legacy", "sse"}:
            async with asyncio.timeout(30):
                await closed.wait()


async def test_a_client_that_leaves_while_it_is_asked_leaves_the_run_waiting(live: Live) -> None:
    shown = asyncio.Event()

    async def nobody(_: ElicitRequestFormParams) -> ElicitResult:
        shown.set()
        return await asyncio.Future[ElicitResult]()

    async with connected(live, "http-legacy", Person(nobody)) as client:
        calling = asyncio.create_task(run_clerk(client, ("ask_person", ASKED)))
        await asyncio.wait_for(shown.wait(), 30)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        page = await call(client, "run_list", status="input_required", limit=10)
        run = page["items"][0]["run"]
        await call(client, "run_input", run=run, answer={"n": 9})
        await ended(client, run)


async def test_a_round_belongs_to_its_key_its_call_and_its_run(live: Live) -> None:
    async with connected(live, "http", Person()) as client:
        await run_clerk(client, wait_seconds=0)
        given = {"agent": "clerk", "input": wanted(("ask_person", ASKED))}
        asked = await client.session.call_tool("agent_run", given, allow_input_required=True)
        assert isinstance(asked, InputRequiredResult)
        assert asked.input_requests is not None
        assert asked.request_state is not None
        answers: Any = dict.fromkeys(asked.input_requests, accept(n=5))
        before = await runs_of(client)

        async def again(who: Client, arguments: dict[str, Any], **fields: Any) -> Any:
            return await who.session.call_tool(
                "agent_run", arguments, allow_input_required=True, **fields
            )

        state = {"request_state": asked.request_state}
        for fields in (
            {"request_state": asked.request_state[:-1]},
            {"request_state": "run_" + "0" * 32},
        ):
            with pytest.raises(MCPError, match="requestState"):
                await again(client, given, input_responses=answers, **fields)
        with pytest.raises(MCPError, match="requestState"):
            await again(client, given | {"input": "x"}, input_responses=answers, **state)
        stranger = await make_key(live)
        async with connected(live, "http", Person(), stranger["key"]) as other:
            with pytest.raises(MCPError, match="requestState"):
                await again(other, given, input_responses=answers, **state)
        bare = await again(client, given, input_responses=answers)
        assert bare.is_error
        assert bare.content[0].text.startswith("invalid_input: inputResponses: ")
        unanswered = await again(client, given, **state)
        assert isinstance(unanswered, InputRequiredResult)
        done = await again(client, given, input_responses=answers, **state)
        assert done.structured_content["status"] == "completed"
        repeated = await again(client, given, input_responses=answers, **state)
        assert repeated.structured_content == done.structured_content
        assert await runs_of(client) == before


async def ended(client: Client, run: str) -> Any:
    async with asyncio.timeout(30):
        while (found := await call(client, "run_get", run=run))["ended_at"] is None:
            await asyncio.sleep(0.02)
    assert found["status"] == "completed", found
    return found
