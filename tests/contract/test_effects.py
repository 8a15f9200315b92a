"""What a key asks for is done once, by every tool that writes: the same answer, one effect, one journal entry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Conflict, Forbidden, LeaseLost, NotFound
from mcp_server.operation import Operation, Operations
from mcp_server.runs.fence import StepKey
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.postgresql import PostgresqlEngine, open_postgresql
from tests.conftest import SECRET
from tests.contract.effect_world import (
    CALLS,
    World,
    begin_run,
    finish_run,
    open_world,
    take_over,
    writing_tools,
)

CALL = pytest.mark.parametrize("case", CALLS)


@pytest.fixture(scope="module")
async def engine(cluster: Cluster) -> AsyncIterator[PostgresqlEngine]:
    async with open_postgresql(cluster.data_url, SECRET, connections=8) as engine:
        yield engine


@pytest.fixture
async def world(
    control: AsyncEngine,
    operations: Operations,
    engine: PostgresqlEngine,
    principal: Principal,
    tmp_path: Path,
) -> AsyncIterator[World]:
    async with open_world(control, operations, engine, tmp_path / "objects") as world:
        await world.prepare(principal)
        yield world


@pytest.fixture
async def step(control: AsyncEngine, principal: Principal) -> StepKey:
    return await begin_run(control, principal.tenant)


def test_every_tool_that_writes_is_tried() -> None:
    assert {tool for tool, _, _ in CALLS.values()} == set(writing_tools())


@CALL
async def test_a_repeated_call_gets_the_first_answer_and_changes_nothing(
    world: World, principal: Principal, step: StepKey, case: str
) -> None:
    tool, arguments, entries = CALLS[case]
    first = await world.call(principal, tool, str(step), **arguments)
    after = await world.state(principal)
    assert await world.journal(principal, step.key) == [
        (verb, step.run) for verb, _ in await world.journal(principal, step.key)
    ]
    assert len(await world.journal(principal, step.key)) == entries
    embedded = len(world.embedder.calls)
    for _ in range(2):
        assert await world.call(principal, tool, str(step), **arguments) == first
    assert await world.state(principal) == after
    assert len(world.embedder.calls) == embedded


@CALL
async def test_concurrent_calls_with_one_key_are_one_effect(
    world: World, principal: Principal, step: StepKey, case: str
) -> None:
    tool, arguments, entries = CALLS[case]
    blobs = len((await world.state(principal))["blobs"])
    answers = await asyncio.gather(
        *(world.call(principal, tool, str(step), **arguments) for _ in range(6))
    )
    assert all(answer == answers[0] for answer in answers)
    assert len(await world.journal(principal, step.key)) == entries
    assert len((await world.state(principal))["blobs"]) - blobs <= (
        tool in {"object_put", "write_together"}
    )


@CALL
async def test_a_twin_that_is_done_between_the_look_and_the_write_is_the_one(
    world: World,
    principal: Principal,
    step: StepKey,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tool, arguments, entries = CALLS[case]
    look, first = Operation.look, list[Any]()

    async def interrupted(op: Operation, *given: Any) -> Any:
        found = await look(op, *given)
        monkeypatch.setattr(Operation, "look", look)
        first.append(await world.call(principal, tool, str(step), **arguments))
        return found

    monkeypatch.setattr(Operation, "look", interrupted)
    answer = await world.call(principal, tool, str(step), **arguments)
    assert first in ([], [answer])
    assert len(await world.journal(principal, step.key)) == entries


@CALL
async def test_another_key_or_none_is_another_effect(
    world: World, principal: Principal, case: str
) -> None:
    tool, arguments, entries = CALLS[case]
    before = len((await world.state(principal))["journal"])
    for key in ("one", "two"):
        try:
            await world.call(principal, tool, key, **arguments)
        except AppError as error:  # the first one's effect stands against the second's
            assert isinstance(error, Conflict), error
            assert key == "two"
    after = len((await world.state(principal))["journal"])
    assert after - before >= entries
    assert len(await world.journal(principal, "one")) == entries


@CALL
async def test_a_stale_lease_writes_nothing_and_journals_nothing(
    world: World, principal: Principal, step: StepKey, control: AsyncEngine, case: str
) -> None:
    tool, arguments, entries = CALLS[case]
    taken = await take_over(control, step)
    before = await world.state(principal)
    with pytest.raises(LeaseLost, match="another worker"):
        await world.call(principal, tool, str(step), **arguments)
    assert await world.state(principal) == before
    await world.call(principal, tool, str(taken), **arguments)
    assert len(await world.journal(principal, step.key)) == entries


@CALL
async def test_the_next_worker_finds_what_the_last_one_did(
    world: World, principal: Principal, step: StepKey, control: AsyncEngine, case: str
) -> None:
    tool, arguments, _ = CALLS[case]
    first = await world.call(principal, tool, str(step), **arguments)
    after = await world.state(principal)
    taken = await take_over(control, step)
    await world.services.sql.raise_fence(taken.run, taken.attempt)
    assert await world.call(principal, tool, str(taken), **arguments) == first
    with pytest.raises(LeaseLost):  # also for what it has done itself
        await world.call(principal, tool, str(step), **arguments)
    assert await world.state(principal) == after


@CALL
async def test_a_run_that_has_ended_writes_nothing_more(
    world: World, principal: Principal, step: StepKey, control: AsyncEngine, case: str
) -> None:
    tool, arguments, _ = CALLS[case]
    await finish_run(control, step)
    before = await world.state(principal)
    with pytest.raises(LeaseLost):
        await world.call(principal, tool, str(step), **arguments)
    assert await world.state(principal) == before


@CALL
async def test_another_tenants_run_is_no_run(
    world: World, principal: Principal, stranger: Principal, control: AsyncEngine, case: str
) -> None:
    tool, arguments, _ = CALLS[case]
    foreign = await begin_run(control, stranger.tenant)
    before = await world.state(principal)
    with pytest.raises(LeaseLost):
        await world.call(principal, tool, str(foreign), **arguments)
    assert await world.state(principal) == before


@CALL
async def test_the_same_key_of_another_tenant_is_another_key(
    world: World, principal: Principal, stranger: Principal, case: str
) -> None:
    tool, arguments, entries = CALLS[case]
    await world.prepare(stranger)
    for who in (principal, stranger):
        await world.call(who, tool, "the same", **arguments)
        assert len(await world.journal(who, "the same")) == entries


async def test_a_failed_try_may_be_tried_again(
    world: World, principal: Principal, step: StepKey
) -> None:
    key = str(step)
    failing: list[tuple[str, dict[str, Any], type[AppError]]] = [
        ("kv_set", {"key": "k", "value": 1, "expected_version": 5}, Conflict),
        ("object_put", {"key": "k", "text": "x", "if_match": "other"}, Conflict),
        ("vector_delete", {"store": "none", "document": "d"}, NotFound),
    ]
    before = await world.state(principal)
    for tool, arguments, error in failing:
        for _ in range(2):
            with pytest.raises(error):
                await world.call(principal, tool, key, **arguments)
    assert await world.state(principal) == before
    assert (await world.call(principal, "kv_set", key, key="k", value=1))["version"]
    assert (await world.call(principal, "object_put", key, key="k", text="x"))["size"] == 1


async def test_a_statement_that_failed_is_journalled_for_each_try(
    world: World, principal: Principal, step: StepKey
) -> None:
    insert = {"sql": "insert into later values (1)"}
    for _ in range(2):
        with pytest.raises(AppError, match="does not exist"):
            await world.call(principal, "sql_execute", str(step), **insert)
    await world.services.sql.execute(principal, "create table later (a int)")
    for _ in range(2):
        await world.call(principal, "sql_execute", str(step), **insert)
    verbs = [verb for verb, _ in await world.journal(principal, step.key)]
    assert verbs == ["intent", "abort", "intent", "abort", "intent", "write"]
    assert (await world.services.sql.query(principal, "select * from later"))["rows"] == [[1]]


async def test_one_key_covers_one_write_of_each_thing(
    world: World, principal: Principal, step: StepKey
) -> None:
    """A tool that writes several things under its one key does each of them."""
    for name in ("a", "b"):
        await world.call(principal, "kv_set", str(step), key=name, value=name)
        await world.call(principal, "object_put", str(step), key=name, text=name)
        await world.call(principal, "sql_execute", str(step), sql=f"create table {name} (x int)")
    await world.call(principal, "kv_delete", str(step), key="a")
    assert [i["key"] for i in (await world.services.kv.list(principal, "default"))["items"]] == [
        "b",
        "there",
    ]
    verbs = [verb for verb, _ in await world.journal(principal, step.key)]
    assert sorted(verbs) == ["delete", *["intent"] * 2, *["write"] * 6]


async def test_a_statement_in_a_loop_under_one_key_is_refused_not_skipped(
    world: World, principal: Principal, step: StepKey, control: AsyncEngine
) -> None:
    insert = "insert into t values ($1)"
    await world.call(principal, "sql_execute", str(step), sql=insert, params=[10])
    with pytest.raises(Conflict, match="key of its own"):
        await world.call(principal, "sql_execute", str(step), sql=insert, params=[11])
    assert [verb for verb, _ in await world.journal(principal, step.key)] == ["intent", "write"]
    # Another worker may have computed another value for the same call: it is done already.
    taken = await take_over(control, step)
    await world.call(principal, "sql_execute", str(taken), sql=insert, params=[12])
    rows = (await world.services.sql.query(principal, "select a from t where a > 9"))["rows"]
    assert rows == [[10]]


async def test_a_counter_that_is_read_and_written_in_one_step_counts_once(
    world: World, principal: Principal, step: StepKey
) -> None:
    answers: list[Any] = []
    for _ in range(3):
        count = (await world.services.kv.get(principal, "default", "there"))["value"]
        answers.append(
            await world.call(principal, "kv_set", str(step), key="there", value=count + 1)
        )
    assert (await world.services.kv.get(principal, "default", "there"))["value"] == 2
    assert answers == [answers[0]] * 3  # the value is the one written, not the one given


async def test_a_replayed_answer_outlives_what_it_tells_of(
    world: World, principal: Principal, step: StepKey
) -> None:
    first = await world.call(principal, "kv_set", str(step), key="k", value="one")
    await world.services.kv.set(principal, "default", "k", "two")
    assert await world.call(principal, "kv_set", str(step), key="k", value="one") == first
    await world.services.kv.delete(principal, "default", "k")
    assert await world.call(principal, "kv_set", str(step), key="k", value="one") == first
    with pytest.raises(NotFound):
        await world.services.kv.get(principal, "default", "k")


async def test_a_document_that_needs_no_indexing_is_an_effect_all_the_same(
    world: World, principal: Principal, step: StepKey
) -> None:
    given = {"store": "s", "text": "there", "document": "there", "metadata": {"kind": "old"}}
    first = await world.call(principal, "vector_add", str(step), **given)
    await world.services.vectors.add(principal, "s", "changed since", document="there")
    assert await world.call(principal, "vector_add", str(step), **given) == first
    shown = await world.services.vectors.get(principal, "s", "there")
    assert shown["text"] == "changed since"


async def test_a_stale_worker_makes_no_store(
    world: World, principal: Principal, step: StepKey, control: AsyncEngine
) -> None:
    """Its lease is lost while the model embeds."""
    embed = world.embedder.embed

    async def late(texts: Any) -> Any:
        await take_over(control, step)
        return await embed(texts)

    world.embedder.embed = late
    with pytest.raises(LeaseLost):
        await world.call(principal, "vector_add", str(step), store="fresh", text="words")
    with pytest.raises(NotFound):
        await world.services.vectors.list(principal, "fresh")


async def test_a_lease_lost_during_an_upload_leaves_neither_object_nor_blob(
    world: World, principal: Principal, step: StepKey, control: AsyncEngine
) -> None:
    before = await world.state(principal)

    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        await take_over(control, step)
        yield b"other half"

    with pytest.raises(LeaseLost):
        await world.services.objects.put_stream(
            principal, "default", "k", body(), idempotency_key=str(step)
        )
    assert await world.state(principal) == before


async def test_what_policy_forbids_is_not_replayed(
    world: World, principal: Principal, step: StepKey
) -> None:
    await world.call(principal, "kv_set", str(step), key="k", value=1)
    narrow = Principal(principal.tenant, "n", frozenset({"write:kv://other/*"}))
    with pytest.raises(Forbidden):
        await world.call(narrow, "kv_set", str(step), key="k", value=1)


async def test_marks_hold_no_values(
    world: World, principal: Principal, step: StepKey, control: AsyncEngine
) -> None:
    await world.call(principal, "kv_set", str(step), key="k", value="canary")
    await world.call(principal, "object_put", str(step), key="k", text="canary")
    query = text("select result from effects where tenant = :t")
    async with control.connect() as connection:
        stored = (await connection.execute(query, {"t": principal.tenant})).scalars().all()
    assert len(stored) == 2
    assert "canary" not in json.dumps(list(stored))
