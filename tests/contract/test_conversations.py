"""Conversations: order, holds, tenants and policy, on a real database."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import Forbidden, InvalidInput, LeaseLost, NotFound
from mcp_server.operation import Operations
from mcp_server.services.conversations import (
    MOST_ITEMS,
    ConversationLocked,
    ConversationService,
    ItemExists,
)
from mcp_server.storage.sql.conversation_tables import conversations
from mcp_server.storage.sql.schema import journal
from tests.contract.effect_world import begin_run, finish_run, take_over


@pytest.fixture
def service(control: AsyncEngine, operations: Operations) -> ConversationService:
    return ConversationService(operations, control)


def items(*ids: str) -> list[dict[str, Any]]:
    return [{"type": "message", "id": name, "role": "user", "content": []} for name in ids]


async def ids(
    service: ConversationService, principal: Principal, name: str, **asked: Any
) -> list[str]:
    page = await service.page(
        principal, name, **{"after": None, "limit": 100, "newest_first": False, **asked}
    )
    return [item["id"] for item in page.items]


async def test_items_keep_their_order_through_additions_and_deletions(
    service: ConversationService, principal: Principal
) -> None:
    made = await service.create(principal, {}, items("b", "a"))
    await service.add(principal, made.id, items("c"))
    await service.delete_item(principal, made.id, "c")
    await service.remember(principal, made.id, items("a", "d"))  # the one that is there stays
    assert await ids(service, principal, made.id) == ["b", "a", "d"]
    assert await ids(service, principal, made.id, newest_first=True, after="a") == ["b"]
    assert [item["id"] for item in await service.history(principal, made.id)] == ["b", "a", "d"]
    with pytest.raises(ItemExists, match="'a'"):
        await service.add(principal, made.id, items("e", "a"))
    assert await ids(service, principal, made.id) == ["b", "a", "d"]


async def test_additions_at_once_are_all_kept_and_none_is_mixed_with_another(
    service: ConversationService, principal: Principal
) -> None:
    made = await service.create(principal, {}, [])
    batches = [[f"{batch}-{item}" for item in range(5)] for batch in range(8)]
    await asyncio.gather(*(service.add(principal, made.id, items(*batch)) for batch in batches))
    kept = await ids(service, principal, made.id)
    assert sorted(kept[at : at + 5] for at in range(0, 40, 5)) == batches


async def test_a_held_conversation_takes_items_of_its_holder_only(
    service: ConversationService, principal: Principal
) -> None:
    made = await service.create(principal, {}, items("first"))
    async with service.holding(principal, made.id, "resp_1"):
        for refused in (
            service.add(principal, made.id, items("x")),
            service.delete_item(principal, made.id, "first"),
            service.remember(principal, made.id, items("x"), holder="resp_2"),
        ):
            with pytest.raises(ConversationLocked):
                await refused
        with pytest.raises(ConversationLocked):
            async with service.holding(principal, made.id, "resp_2"):
                pass
        assert await ids(service, principal, made.id) == ["first"]
        await service.remember(principal, made.id, items("mine"), holder="resp_1")
        await service.add(principal, made.id, items("next"))  # it let go
    async with service.holding(principal, made.id, "resp_2"):
        assert await ids(service, principal, made.id) == ["first", "mine", "next"]


async def test_who_lost_its_run_adds_nothing_to_a_conversation(
    service: ConversationService, principal: Principal, control: AsyncEngine
) -> None:
    made = await service.create(principal, {}, [])
    first = await begin_run(control, principal.tenant)
    await service.remember(principal, made.id, items("a"), holder="resp_1", key=str(first))
    second = await take_over(control, first)
    with pytest.raises(LeaseLost):  # it stood still for longer than its lease, and has woken up
        await service.remember(principal, made.id, items("b"), holder="resp_1", key=str(first))
    await service.remember(principal, made.id, items("a", "c"), holder="resp_1", key=str(second))
    await finish_run(control, second)
    with pytest.raises(LeaseLost):
        await service.remember(principal, made.id, items("d"), holder="resp_1", key=str(second))
    assert await ids(service, principal, made.id) == ["a", "c"]


async def test_of_many_that_want_to_hold_one_gets_it(
    service: ConversationService, principal: Principal
) -> None:
    made = await service.create(principal, {}, [])
    everyone_else_was_refused = asyncio.Event()
    outcomes: list[str] = []

    async def hold(number: int) -> None:
        try:
            async with service.holding(principal, made.id, f"resp_{number}"):
                await everyone_else_was_refused.wait()
                outcomes.append("held")
        except ConversationLocked:
            outcomes.append("refused")
            if len(outcomes) == 7:
                everyone_else_was_refused.set()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(hold(number))
    assert outcomes == [*["refused"] * 7, "held"]


async def test_a_hold_outlives_its_time_while_its_holder_lives_and_ends_with_a_dead_one(
    control: AsyncEngine, operations: Operations, principal: Principal
) -> None:
    service = ConversationService(operations, control, held_seconds=1.0)
    made = await service.create(principal, {}, [])

    async def until_when() -> Any:
        query = select(conversations.c.held_until).where(conversations.c.id == made.id)
        async with control.connect() as tx:
            return await tx.scalar(query)

    async with service.holding(principal, made.id, "resp_1"), asyncio.timeout(30):
        begun = await until_when()
        while await until_when() == begun:
            await asyncio.sleep(0.02)
    assert await until_when() is None
    async with control.begin() as tx:  # as a process leaves it that died a minute ago
        dead = "update conversations set held_by = 'resp_9', held_until = now() - interval '1 s'"
        await tx.execute(text(f"{dead} where id = :id"), {"id": made.id})
    await service.add(principal, made.id, items("free"))
    async with service.holding(principal, made.id, "resp_2"):
        pass


async def test_another_tenant_has_no_such_conversation(
    service: ConversationService, principal: Principal, stranger: Principal
) -> None:
    made = await service.create(principal, {"a": "b"}, items("i"))
    answers: list[str] = []
    for name in (made.id, "conv_" + "0" * 32):
        for refused in (
            service.get(stranger, name),
            service.update(stranger, name, {}),
            service.delete(stranger, name),
            service.add(stranger, name, items("x")),
            service.history(stranger, name),
            service.remember(stranger, name, items("x")),
            service.item(stranger, name, "i"),
            service.delete_item(stranger, name, "i"),
            ids(service, stranger, name),
        ):
            with pytest.raises(NotFound) as error:
                await refused
            answers.append(error.value.message.replace(name, "ID"))
    assert len(set(answers)) == 1
    assert (await service.get(principal, made.id)).metadata == {"a": "b"}


async def test_policy_decides_about_each_conversation(
    service: ConversationService, principal: Principal
) -> None:
    made = await service.create(principal, {}, items("i"))
    other = await service.create(principal, {}, [])
    scope = frozenset({f"read:conversation://{made.id}"})
    reader = Principal(principal.tenant, "reader", scope)
    assert (await service.get(reader, made.id)).id == made.id
    for refused in (
        service.get(reader, other.id),
        service.add(reader, made.id, items("x")),
        service.create(reader, {}, []),
        service.delete(reader, made.id),
    ):
        with pytest.raises(Forbidden):
            await refused


async def test_every_change_is_journalled_with_its_conversation(
    service: ConversationService, control: AsyncEngine, principal: Principal
) -> None:
    made = await service.create(principal, {}, items("i"))
    await service.update(principal, made.id, {"a": "b"})
    await service.add(principal, made.id, items("j"))
    await service.remember(principal, made.id, items("k"))
    await service.delete_item(principal, made.id, "i")
    await service.delete(principal, made.id)
    query = select(journal.c.verb, journal.c.uri).where(journal.c.tenant == principal.tenant)
    async with control.connect() as tx:
        found = [(row.verb, row.uri) for row in await tx.execute(query.order_by(journal.c.seq))]
    uri = f"conversation://{made.id}"
    assert found == [*[("write", uri)] * 5, ("delete", uri)]


async def test_a_conversation_takes_so_many_items_and_no_more(
    service: ConversationService, control: AsyncEngine, principal: Principal
) -> None:
    made = await service.create(principal, {}, [])
    async with control.begin() as tx:
        full = text("update conversations set next_place = :next where id = :id")
        await tx.execute(full, {"next": MOST_ITEMS - 1, "id": made.id})
    await service.add(principal, made.id, items("last"))
    with pytest.raises(InvalidInput, match=str(MOST_ITEMS)):
        await service.add(principal, made.id, items("one more"))
