"""The envelope: every outcome is decided, metered and audited in one place."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import Any

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.audit import Audit
from mcp_server.auth.principal import Principal
from mcp_server.errors import (
    ConfigurationError,
    Forbidden,
    LimitExceeded,
    NotFound,
    Timeout,
    Unavailable,
)
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.policy import Verb
from mcp_server.storage.sql.effects import Lease


async def audited(control: AsyncEngine, principal: Principal) -> list[tuple[str, str, str]]:
    async with control.connect() as tx:
        rows = await tx.execute(
            text("select verb, uri, outcome from audit where tenant = :t order by id"),
            {"t": principal.tenant},
        )
        return [(row.verb, row.uri, row.outcome) for row in rows]


async def test_every_outcome_is_audited(control: AsyncEngine, principal: Principal) -> None:
    audit = Audit()
    operation = Operations(Limits(), audit)
    nobody = Principal(principal.tenant, "n", frozenset())
    async with audit.writing(control):
        async with operation(principal, "read", "kv://a/1"):
            pass
        with pytest.raises(Forbidden):
            async with operation(nobody, "read", "kv://a/2"):
                raise AssertionError("a refused body must not run")
        with pytest.raises(NotFound):
            async with operation(principal, "read", "kv://a/3"):
                raise NotFound("none")
        with pytest.raises(ZeroDivisionError):
            async with operation(principal, "read", "kv://a/4\0"):
                _ = 1 / 0
    assert await audited(control, principal) == [
        ("read", "kv://a/1", "ok"),
        ("read", "kv://a/2", "forbidden"),
        ("read", "kv://a/3", "not_found"),
        ("read", "kv://a/4\ufffd", "internal"),
    ]


async def test_a_redis_that_does_not_answer_is_unavailable(principal: Principal) -> None:
    if find_spec("redis") is None:
        with pytest.raises(ConfigurationError, match=r"isthmus\[redis\]"):
            Limits("1/minute", "redis://127.0.0.1:1/0")
    else:
        with pytest.raises(Unavailable, match="Redis"):
            await Limits("1/minute", "redis://:pw@127.0.0.1:1/0").count(principal)


async def test_the_audit_cannot_be_changed(control: AsyncEngine, principal: Principal) -> None:
    audit = Audit()
    async with audit.writing(control):
        audit.record(principal, "read", "kv://a", "ok", 1)
    for statement in ("update audit set uri = ''", "delete from audit", "truncate audit"):
        with pytest.raises(DBAPIError, match="append-only"):
            async with control.begin() as tx:
                await tx.execute(text(statement))


async def test_a_deadline_ends_the_operation(operations: Operations, principal: Principal) -> None:
    deadline = asyncio.get_running_loop().time() + 0.05
    with pytest.raises(Timeout, match="kv://a/slow"):
        async with operations(principal, "read", "kv://a/slow", deadline=deadline):
            await anyio.sleep_forever()


async def test_a_cancelled_operation_stays_cancelled(
    operations: Operations, principal: Principal
) -> None:
    with anyio.move_on_after(0.05) as scope:
        async with operations(principal, "read", "kv://a/left"):
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_rate_holds_per_key_and_names_the_wait(
    control: AsyncEngine, principal: Principal
) -> None:
    rates: dict[str | None, str] = {"key_1": "2/minute", "key_2": "1/minute"}
    operation = Operations(Limits(), Audit(), lambda who: rates.get(who.key_id))

    async def hit(key_id: str | None, **options: Any) -> None:
        who = Principal(principal.tenant, "s", principal.scopes, key_id)
        async with operation(who, "read", "kv://a/1", **options):
            pass

    for _ in range(2):
        await hit("key_1", metered=True)
    with pytest.raises(LimitExceeded, match="2/minute") as refused:
        await hit("key_1", metered=True)
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 60
    await hit("key_1")  # what a request does inside is not counted again
    await hit("key_2", metered=True)
    await hit(None, metered=True)


async def test_a_database_that_does_not_answer_is_unavailable(principal: Principal) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    gone = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none")
    operation = Operations(Limits(), Audit())
    with pytest.raises((Unavailable, OSError)) as refused:
        async with operation(principal, "read", "kv://a/1"), gone.connect():
            raise AssertionError("unreachable")
    assert isinstance(refused.value, Unavailable)
    await gone.dispose()


@pytest.mark.parametrize(
    "state", ["disk_full", "deadlock_detected", "idle_in_transaction_session_timeout"]
)
async def test_a_database_that_refuses_for_now_is_unavailable(
    control: AsyncEngine, principal: Principal, state: str
) -> None:
    operation = Operations(Limits(), Audit())
    refusal = text(f"do $$ begin raise 'not now' using errcode = '{state}'; end $$")
    with pytest.raises(Unavailable):
        async with operation(principal, "write", "kv://a/1"), control.begin() as tx:
            await tx.execute(refusal)


async def test_whoever_follows_the_journal_is_told_of_what_may_have_changed(
    principal: Principal,
) -> None:
    told: list[str] = []
    operation = Operations(Limits(), Audit(), changed=lambda: told.append("changed"))
    verbs: tuple[Verb, ...] = ("read", "write", "run")
    for verb in verbs:
        async with operation(principal, verb, "kv://a/1"):
            assert len(told) == max(0, verbs.index(verb) - 1)  # not before it is done
        with pytest.raises(NotFound):
            async with operation(principal, verb, "kv://a/1"):
                raise NotFound("none")
    assert told == ["changed"] * 2


async def test_a_steps_key_is_its_identity_without_the_lease(
    operations: Operations, principal: Principal
) -> None:
    run = f"run_{'0' * 32}"
    async with operations(principal, "write", "kv://a/1", key=f"{run}/call/3@17.2") as op:
        assert (op.key, op.lease) == (f"{run}/call/3", Lease(run, 17, 2))
    for plain in (
        "step-1",
        f"{run}/call/3",
        f"{run}@17.2",
        f"{run}/call/3@17",
        "run_1/call/3@17.2",
    ):
        async with operations(principal, "write", "kv://a/1", key=plain) as op:
            assert (op.key, op.lease) == (plain, None)


async def test_an_operation_without_a_key_marks_nothing(
    operations: Operations, control: AsyncEngine, principal: Principal
) -> None:
    async with operations(principal, "write", "kv://a/1") as op, control.begin() as tx:
        for _ in range(2):
            assert await op.replay(tx) is None
            assert await op.remember(tx, "answer") == "answer"
            assert await op.first(tx)
        await op.hold(tx)
        assert await op.look(control) is None
        query = text("select count(*) from effects where tenant = :t")
        assert await tx.scalar(query, {"t": principal.tenant}) == 0
