"""Workers: they take what there is room for, take over from the dead, and never act for a run they lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest
from sqlalchemy import text

from mcp_server.auth.principal import Principal
from mcp_server.storage.sql.embedded import Cluster
from tests.contract.runs.engine import QUICK, Engine, new_suffix, open_engine, worker_process


@pytest.fixture
def suffix() -> str:
    return new_suffix()


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Engine]:
    """A process without a worker."""
    async with open_engine(cluster.control_url) as engine:
        yield engine


@pytest.fixture
async def engine(cluster: Cluster, suffix: str) -> AsyncIterator[Engine]:
    async with open_engine(cluster.control_url, suffix) as engine:
        yield engine


async def test_a_run_goes_through_its_statuses_and_its_steps(
    engine: Engine, principal: Principal, suffix: str
) -> None:
    run = await engine.start(principal, f"steps-{suffix}", {"count": 3, "seconds": 0})
    told = await engine.ended(run)
    assert [event.get("status", event["type"]) for event in told] == [
        *("queued", "running", "done", "done", "done", "completed"),
    ]
    ended = await engine.load(principal, run)
    assert ended.output == ["did step/0", "did step/1", "did step/2"]
    assert (ended.attempt, ended.epoch) == (1, None)
    assert await engine.trials(run) == ["step/0", "step/1", "step/2"]


async def test_a_run_queued_elsewhere_is_claimed_at_once(
    cluster: Cluster, client: Engine, principal: Principal, suffix: str
) -> None:
    never = replace(QUICK, claim=3600.0)  # that it looks by itself
    async with open_engine(cluster.control_url, suffix, timing=never) as engine:
        run = await client.start(principal, f"steps-{suffix}", {"count": 0, "seconds": 0})
        await engine.ended(run)
        run = await client.start(principal, f"steps-{suffix}", {"count": 0, "seconds": 0})
        await client.ended(run)


async def test_a_worker_claims_only_the_kinds_that_it_knows(
    engine: Engine, principal: Principal, suffix: str
) -> None:
    foreign = await engine.start(principal, f"else-{suffix}")
    known = await engine.start(principal, f"steps-{suffix}", {"count": 0, "seconds": 0})
    await engine.ended(known)
    assert (await engine.load(principal, foreign)).status == "queued"


async def test_one_tenant_leaves_room_for_another(
    cluster: Cluster, principal: Principal, stranger: Principal, suffix: str
) -> None:
    async with open_engine(cluster.control_url, suffix, concurrency=2) as engine:
        flood = [await engine.start(principal, f"hang-{suffix}") for _ in range(3)]
        await engine.trying(flood[0], "hang")
        other = await engine.start(stranger, f"steps-{suffix}", {"count": 1, "seconds": 0})
        await engine.ended(other)
        assert len(engine.worker.held) == 1
    assert [(await status_of(cluster, principal, run)) for run in flood] == ["queued"] * 3


async def status_of(cluster: Cluster, principal: Principal, run: str) -> str:
    async with open_engine(cluster.control_url) as engine:
        return (await engine.load(principal, run)).status


async def test_after_kill_9_another_worker_goes_on_where_the_dead_one_was(
    engine: Engine, client: Engine, cluster: Cluster, principal: Principal, suffix: str
) -> None:
    own = new_suffix()
    async with worker_process(cluster.control_url, own) as process:
        run = await client.start(principal, f"steps-{own}", {"count": 4, "seconds": 0.4})
        await client.trying(run, "step/2")
        process.signal(signal.SIGKILL)
        await process.wait()
        assert (await client.load(principal, run)).status == "running"
        async with open_engine(cluster.control_url, own) as heir:
            told = await heir.ended(run)
            ended = await heir.load(principal, run)
    assert ended.status == "completed"
    assert ended.output == [f"did step/{number}" for number in range(4)]
    assert ended.attempt == 2
    # Steps that finished were not repeated; the one in the middle of which it died was.
    trials = await client.trials(run)
    assert trials.count("step/0") == trials.count("step/1") == trials.count("step/3") == 1
    assert trials.count("step/2") == 2
    assert {"type": "resumed", "attempt": 2} in [
        {name: event[name] for name in event if name != "seq"} for event in told
    ]
    assert await client.leased(principal.tenant) == 0


async def test_a_worker_stopped_past_its_lease_writes_nothing_when_it_wakes(
    client: Engine, cluster: Cluster, principal: Principal
) -> None:
    own = new_suffix()
    async with worker_process(cluster.control_url, own) as zombie:
        run = await client.start(principal, f"steps-{own}", {"count": 6, "seconds": 0.3})
        await client.trying(run, "step/1")
        zombie.signal(signal.SIGSTOP)
        async with open_engine(cluster.control_url, own) as heir:
            with anyio.fail_after(20):
                while run not in heir.worker.held:
                    await asyncio.sleep(0.02)
            zombie.signal(signal.SIGCONT)
            told = await heir.ended(run)
            ended = await heir.load(principal, run)
            assert (ended.status, ended.attempt) == ("completed", 2)
            assert ended.output == [f"did step/{number}" for number in range(6)]
            done = [event["step"] for event in told if event["type"] == "done"]
            assert sorted(set(done)) == [f"step/{number}" for number in range(6)]
            # It lives, and works on under a new lease.
            again = await client.start(principal, f"steps-{own}", {"count": 1, "seconds": 0})
            await client.ended(again)
        last = await client.start(principal, f"steps-{own}", {"count": 1, "seconds": 0})
        assert (await client.ended(last))[-1]["status"] == "completed"


async def test_a_claim_whose_answer_got_lost_is_noticed_and_handed_back(
    engine: Engine, principal: Principal, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = engine.stores.queue.claim
    lost: list[str] = []

    async def deaf(*args: object, **kwargs: object) -> list[object]:
        runs = await claim(*args, **kwargs)  # pyright: ignore[reportArgumentType]
        if runs and not lost:
            lost.append(runs[0].id)
            raise ConnectionResetError("the answer")
        return list(runs)

    monkeypatch.setattr(engine.stores.queue, "claim", deaf)
    run = await engine.start(principal, f"steps-{suffix}", {"count": 1, "seconds": 0})
    told = await engine.ended(run)
    assert lost == [run]
    assert told[-1]["status"] == "completed"
    assert await engine.trials(run) == ["step/0"]


async def test_a_failure_that_may_pass_is_tried_again_later_and_then_given_up(
    engine: Engine, principal: Principal, suffix: str
) -> None:
    kind = f"flaky-{suffix}"
    passes = await engine.start(principal, kind, {"failures": 2}, max_retries=2)
    told = await engine.ended(passes)
    assert (await engine.load(principal, passes)).output == 2
    pauses = [event["delay_seconds"] for event in told if event["type"] == "retry"]
    assert len(pauses) == 2
    assert 0.04 <= pauses[0] <= 0.06
    assert 0.08 <= pauses[1] <= 0.12
    fails = await engine.start(principal, kind, {"failures": 9}, max_retries=1)
    await engine.ended(fails)
    failed = await engine.load(principal, fails)
    assert failed.error == {"code": "unavailable", "message": "not yet"}
    assert (failed.status, failed.dead_letter) == ("failed", True)
    assert await engine.trials(fails) == ["flaky", "flaky"]
    never = await engine.start(principal, kind, {"failures": 1})
    await engine.ended(never)
    failed = await engine.load(principal, never)
    assert (failed.status, failed.dead_letter) == ("failed", False)


async def test_a_defect_fails_the_run_without_telling_its_text(
    engine: Engine, principal: Principal, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = await engine.start(principal, f"broken-{suffix}", max_retries=3)
    await engine.ended(run)
    failed = await engine.load(principal, run)
    assert failed.error is not None
    assert failed.error["code"] == "internal"
    assert "secret" not in failed.error["message"]
    assert "KeyError: 'a secret'" in caplog.text


async def test_a_run_that_takes_too_long_is_stopped(
    engine: Engine, principal: Principal, suffix: str
) -> None:
    run = await engine.start(principal, f"hang-{suffix}", timeout_seconds=0.3)
    told = await engine.ended(run)
    assert told[-1]["error"]["code"] == "timeout"
    assert [event["text"] for event in told if event["type"] == "text"] == ["begun", " and"]


async def test_a_lease_is_renewed_while_every_other_connection_is_in_use(
    engine: Engine, principal: Principal, suffix: str, cluster: Cluster
) -> None:
    run = await engine.start(principal, f"hang-{suffix}")
    await engine.trying(run, "hang")
    pool = [await engine.control.connect() for _ in range(8)]
    try:
        async with open_engine(cluster.control_url, suffix) as other:
            await asyncio.sleep(3)  # twice its lease: whoever could, would have taken it away
            found = await other.load(principal, run)
            assert (found.status, found.attempt) == ("running", 1)
    finally:
        for connection in pool:
            await connection.close()


async def test_workers_keep_their_runs_when_the_clock_is_set_forward(
    engine: Engine, cluster: Cluster, principal: Principal, suffix: str
) -> None:
    """Every lease has expired at once, also those of machines that slept; each is renewed in time."""
    run = await engine.start(principal, f"steps-{suffix}", {"count": 1, "seconds": 60})
    await engine.trying(run, "step/0")
    async with open_engine(cluster.control_url, new_suffix()):
        for _ in range(3):
            await asyncio.sleep(QUICK.lease + 2 * QUICK.heartbeat)  # both may take leases by now
            async with engine.control.begin() as tx:
                back = "update run_leases set expires_at = expires_at - interval '1 minute'"
                await tx.execute(text(back))
        await asyncio.sleep(2 * QUICK.sweep)
        found = await engine.load(principal, run)
        assert (found.status, found.attempt) == ("running", 1)
