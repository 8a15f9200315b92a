"""A run that was ended from outside: its worker may be in the middle of a statement, which must not be committed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import LeaseLost, Unavailable
from mcp_server.operation import Operations
from mcp_server.runs import attempt as attempt_module
from mcp_server.runs import marks as marks_module
from mcp_server.runs.context import RunContext
from mcp_server.runs.fence import StepKey
from mcp_server.runs.marks import Marks
from mcp_server.runs.record import Outcome
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.postgresql import open_postgresql
from mcp_server.storage.sql.wire import Session
from tests.conftest import SECRET
from tests.contract.runs.engine import open_engine
from tests.contract.runs.rows import Rows


@pytest.fixture
async def sql(
    cluster: Cluster, operations: Operations, control: AsyncEngine
) -> AsyncIterator[SqlService]:
    async with open_postgresql(cluster.data_url, SECRET) as engine:
        yield SqlService(operations, control, engine)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
async def test_a_statement_of_a_run_that_was_ended_commits_nothing(
    rows: Rows, sql: SqlService, principal: Principal, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    await sql.execute(principal, "create table t (a int)")
    run, epoch = await rows.running()
    standing, go_on = asyncio.Event(), asyncio.Event()
    original = Session.execute

    async def execute(session: Session, arguments: Sequence[str | None]) -> int:
        standing.set()
        await go_on.wait()
        return await original(session, arguments)

    monkeypatch.setattr(Session, "execute", execute)
    key = str(StepKey(run.id, f"{run.id}/call/1", epoch, run.attempt))
    zombie = asyncio.create_task(sql.execute(principal, "insert into t values (1)", key=key))
    await standing.wait()
    if how == "cancelled":
        assert await rows.queue.force_cancel(rows.tenant, run.id)
    else:
        await rows.execute("update runs set expires_at = now() where id = :run", run=run.id)
        assert run.id in await rows.sweep.expire()
    await rows.sweep.compact(Marks([sql]).close)
    go_on.set()
    with pytest.raises(LeaseLost):
        await zombie
    assert (await sql.query(principal, "select a from t"))["rows"] == []


async def test_runs_are_not_compacted_before_they_are_closed(rows: Rows) -> None:
    run = await rows.in_status("failed")
    completed = await rows.in_status("completed")
    told: list[str] = []

    async def close(runs: Sequence[str]) -> None:
        told.extend(runs)
        raise Unavailable("the store is away")

    with pytest.raises(Unavailable):
        await rows.sweep.compact(close)
    assert run.id in told
    assert completed.id not in told
    assert not await rows.scalar("select compacted from runs where id = :run", run=run.id)


class Away:
    """A store of effects that does not answer until it is told to."""

    def __init__(self) -> None:
        self.answers = False

    async def raise_fence(self, run: str, attempt: int) -> None:
        if not self.answers:
            raise Unavailable("the store is away")

    async def purge_effects(self, seconds: float) -> int:
        return 0


async def test_a_resumed_run_gives_its_place_up_while_a_store_of_effects_is_away(
    cluster: Cluster, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks_module, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(attempt_module, "PUT_OFF_SECONDS", 0.2)
    began = asyncio.Event()
    away = Away()

    async def work(context: RunContext) -> Outcome:
        began.set()
        if not context.resumed:
            await asyncio.get_running_loop().create_future()
        return Outcome(status="completed", output="went on")

    kind = f"steps-{uuid.uuid4().hex}"
    async with open_engine(cluster.control_url, works={kind: work}) as engine:
        run = await engine.start(principal, kind)
        await began.wait()
    async with open_engine(cluster.control_url, works={kind: work}, marks=[away]) as heir:
        await heir.until(principal, run, "running")
        put_off = await heir.until(principal, run, "queued")
        assert put_off.retries == 0
        away.answers = True
        ended = await heir.until(principal, run, "completed")
    assert ended.output == "went on"
