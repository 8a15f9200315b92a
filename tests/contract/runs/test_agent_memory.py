"""Agents that remember: a run goes on with what was said in its conversation, and adds to it once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import text

from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, LimitExceeded, NotFound
from mcp_server.llm import ChatRequest, Chunk
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.services import agent_memory
from mcp_server.services.conversations import ConversationLocked, ConversationService
from mcp_server.services.runs import RunService
from tests.contract.runs.world import World, ended, reached


class Recalling(ScriptedModel):
    """Answers with all that it was sent but the instructions."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        said = [f"{each['role'][0]}:{each['content']}" for each in request["messages"][1:]]
        told = {**request, "messages": [{"role": "user", "content": " ".join(said)}]}
        async for chunk in super().stream(told):
            yield chunk


class Held(Recalling):
    """Answers once it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        await self.free.wait()
        async for chunk in super().stream(request):
            yield chunk


@pytest.fixture
def conversations(world: World) -> ConversationService:
    return ConversationService(world.operations, world.control)


@pytest.fixture
async def talk(world: World, principal: Principal) -> World:
    world.model = Recalling
    await world.save(principal, tools=[], memory="conversation")
    return world


async def say(runs: RunService, principal: Principal, words: str, key: str = "tea") -> Any:
    started = await runs.start(principal, "helper", words, conversation=key)
    await ended(runs, principal, started["run"])
    return await runs.get(principal, started["run"])


async def test_a_run_begins_with_what_was_said_and_adds_to_it(
    talk: World, runs: RunService, conversations: ConversationService, principal: Principal
) -> None:
    first = await say(runs, principal, "hello")
    second = await say(runs, principal, "again")
    assert first["output"] == "u:hello"
    assert second["output"] == "u:hello a:u:hello u:again"
    assert (await say(runs, principal, "hello", key="another"))["output"] == "u:hello"
    assert (await runs.run(principal, "helper", "alone", wait_seconds=30))["output"] == "u:alone"
    items = await conversations.history(principal, second["conversation"])
    assert [(item["role"], item["content"][0]["text"]) for item in items] == [
        *(("user", "hello"), ("assistant", "u:hello")),
        *(("user", "again"), ("assistant", "u:hello a:u:hello u:again")),
    ]
    made = await conversations.get(principal, second["conversation"])
    assert made.metadata == {"agent": "helper", "key": "tea"}
    # By its own id it is the same conversation, and as one of /v1/conversations it takes items.
    await conversations.add(principal, made.id, [message("noted")])
    third = await say(runs, principal, "well", key=made.id)
    assert third["output"].endswith(" u:noted u:well")


def message(words: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": words}]
    return {"id": f"msg_{words}", "type": "message", "role": "user", "content": content}


async def test_a_deleted_conversation_is_forgotten_also_in_the_middle_of_a_run(
    talk: World, runs: RunService, conversations: ConversationService, principal: Principal
) -> None:
    first = await say(runs, principal, "hello")
    await conversations.delete(principal, first["conversation"])
    assert (await say(runs, principal, "who am I"))["output"] == "u:who am I"
    model = Held()
    talk.model = lambda: model
    run = (await runs.start(principal, "helper", "wait", conversation="tea"))["run"]
    await reached(runs, principal, run)
    await conversations.delete(principal, first["conversation"])
    model.free.set()
    await ended(runs, principal, run)
    assert (await runs.get(principal, run))["status"] == "completed"
    with pytest.raises(NotFound):
        await conversations.get(principal, first["conversation"])


async def test_what_failed_or_was_cancelled_is_not_remembered(
    talk: World, runs: RunService, principal: Principal
) -> None:
    talk.script = "turns: [{error: {status: 400, message: no}}]"
    talk.model = talk._scripted
    assert (await say(runs, principal, "hello"))["status"] == "failed"
    model = Held()
    talk.model = lambda: model
    run = (await runs.start(principal, "helper", "stop", conversation="tea"))["run"]
    await reached(runs, principal, run)
    await runs.cancel(principal, run)
    talk.model = Recalling
    assert (await say(runs, principal, "well"))["output"] == "u:well"


async def test_a_busy_conversation_rejects_a_run_with_the_name_of_the_one_that_has_it(
    talk: World, runs: RunService, conversations: ConversationService, principal: Principal
) -> None:
    model = Held()
    talk.model = lambda: model
    first = await runs.start(principal, "helper", "first", conversation="tea", key="k1")
    with pytest.raises(Conflict, match=first["run"]):
        await runs.start(principal, "helper", "second", conversation="tea")
    again = await runs.start(principal, "helper", "first", conversation="tea", key="k1")
    assert again["run"] == first["run"]
    conversation = first["conversation"]
    assert conversation is not None
    with pytest.raises(ConversationLocked, match=first["run"]):
        await conversations.add(principal, conversation, [message("between")])
    with pytest.raises(ConversationLocked, match=first["run"]):
        async with conversations.holding(principal, conversation, "resp_1"):
            raise AssertionError
    await runs.start(principal, "helper", "elsewhere", conversation="coffee")
    model.free.set()
    await ended(runs, principal, first["run"])
    assert (await say(runs, principal, "second"))["status"] == "completed"
    async with conversations.holding(principal, conversation, "resp_1"):
        with pytest.raises(ConversationLocked, match="response"):
            await runs.start(principal, "helper", "third", conversation="tea")


async def test_an_enqueued_run_begins_when_the_ones_before_it_have_ended(
    talk: World, runs: RunService, principal: Principal
) -> None:
    await talk.save(principal, tools=[], memory="conversation", busy="enqueue")
    model = Held()
    talk.model = lambda: model
    words = ("one", "two", "three", "four", "five")
    started = [
        (await runs.start(principal, "helper", each, conversation="tea"))["run"] for each in words
    ]
    await reached(runs, principal, started[0])
    states = [(await runs.get(principal, run))["status"] for run in started]
    assert states == ["running", *["queued"] * 4]
    await runs.cancel(principal, started[1])
    model.free.set()
    for run in started:
        await ended(runs, principal, run)
    last = await runs.get(principal, started[-1])
    asked = [word for word in last["output"].split() if word.startswith("u:")]
    assert asked[-1] == "u:five"
    assert "two" not in last["output"]
    times = [await runs.get(principal, run) for run in started if run != started[1]]
    assert all(
        (before["ended_at"] or "") <= (after["started_at"] or "")
        for before, after in pairwise(times)
    )


async def test_only_so_many_runs_wait_for_their_turn(
    talk: World, runs: RunService, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_memory, "MOST_ENQUEUED", 2)
    await talk.save(principal, tools=[], memory="conversation", busy="enqueue")
    model = Held()
    talk.model = lambda: model
    for words in ("one", "two"):
        await runs.start(principal, "helper", words, conversation="tea")
    with pytest.raises(LimitExceeded, match="2 runs wait"):
        await runs.start(principal, "helper", "three", conversation="tea")


@pytest.mark.parametrize(
    ("key", "error", "told"),
    [
        ("", InvalidInput, "conversation: it is empty"),
        ("a\0b", InvalidInput, "conversation: the character U\\+0000"),
        ("x" * 201, InvalidInput, "conversation: it is longer than the 200 characters"),
        ("conv_0123", NotFound, "Conversation with id 'conv_0123' not found"),
    ],
)
async def test_a_conversation_that_cannot_be_is_refused(
    talk: World, runs: RunService, principal: Principal, key: str, error: Any, told: str
) -> None:
    with pytest.raises(error, match=told):
        await runs.start(principal, "helper", "hello", conversation=key)
    assert (await runs.list(principal))["items"] == []


async def test_an_agent_without_memory_goes_on_only_with_a_conversation_named_by_its_id(
    talk: World, runs: RunService, principal: Principal
) -> None:
    first = await say(runs, principal, "hello")
    await talk.save(principal, tools=[])
    told = (await say(runs, principal, "well", key=first["conversation"]))["output"]
    assert told == "u:hello a:u:hello u:well"
    with pytest.raises(InvalidInput, match="conversation: agent 'helper' keeps no memory"):
        await runs.run(principal, "helper", "hello", wait_seconds=0, conversation="tea")


async def test_to_remember_needs_the_right_to_read_and_write_conversations(
    talk: World, runs: RunService, principal: Principal
) -> None:
    del talk
    for scopes in ({"run"}, {"run", "read"}, {"run", "write"}):
        poor = Principal(principal.tenant, principal.subject, frozenset(scopes))
        with pytest.raises(Forbidden, match="conversation://"):
            await runs.start(poor, "helper", "hello", conversation="tea")


async def test_another_tenants_conversation_is_as_one_that_is_not_there(
    talk: World, runs: RunService, principal: Principal, stranger: Principal
) -> None:
    first = await say(runs, principal, "a secret")
    await talk.agents.save(stranger, "helper", instructions="-", memory="conversation")
    assert (await say(runs, stranger, "hello"))["output"] == "u:hello"
    with pytest.raises(NotFound):
        await runs.start(stranger, "helper", "hello", conversation=first["conversation"])


async def test_of_a_long_conversation_the_newest_is_read_from_a_question_on(
    talk: World,
    runs: RunService,
    conversations: ConversationService,
    principal: Principal,
) -> None:
    first = await say(runs, principal, "hello")
    long = [message(f"n{number}") for number in range(300)]
    await conversations.add(principal, first["conversation"], long)
    said = (await say(runs, principal, "well"))["output"].split()
    assert (len(said), said[0], said[-2:]) == (201, "u:n100", ["u:n299", "u:well"])


async def test_a_full_conversation_is_refused_before_a_run_begins(
    talk: World, runs: RunService, principal: Principal
) -> None:
    first = await say(runs, principal, "hello")
    async with talk.control.begin() as tx:
        statement = "update conversations set next_place = 10000 where id = :id"
        await tx.execute(text(statement), {"id": first["conversation"]})
    with pytest.raises(InvalidInput, match="takes 10000 at most"):
        await runs.start(principal, "helper", "hello", conversation="tea")
