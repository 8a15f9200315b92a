"""Whoever watches `run://ID` hears of its events as they come, if policy and tenant allow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest
from mcp.server.subscriptions import ResourceUpdated, ServerEvent

from mcp_server.auth.principal import Principal, acting_as
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.updates import Updates
from tests.contract.runs.engine import Engine, new_suffix, open_engine


@pytest.fixture
def suffix() -> str:
    return new_suffix()


@pytest.fixture
async def engine(cluster: Cluster, suffix: str) -> AsyncIterator[Engine]:
    async with open_engine(cluster.control_url, suffix) as engine:
        yield engine


@pytest.fixture
async def updates(engine: Engine) -> AsyncIterator[Updates]:
    updates = Updates()
    async with updates.following(engine.control, engine.wake, engine.following):
        yield updates


def subscribe(updates: Updates, principal: Principal, uri: str) -> list[str]:
    """Subscribe, and return what will have been heard."""
    heard: list[str] = []

    def listen(event: ServerEvent) -> None:
        if isinstance(event, ResourceUpdated) and event.uri == uri:
            heard.append(event.uri)

    with acting_as(principal):
        updates.subscribe(listen)
    return heard


async def test_each_new_event_is_heard_but_not_ten_times_a_second(
    engine: Engine,
    updates: Updates,
    principal: Principal,
    stranger: Principal,
    suffix: str,
) -> None:
    run = await engine.start(principal, f"talk-{suffix}", {"count": 100, "seconds": 0.02})
    await updates.prepare()
    uri = f"run://{run}"
    own, foreign = subscribe(updates, principal, uri), subscribe(updates, stranger, uri)
    blind = Principal(principal.tenant, "u", frozenset({"read:kv://*"}))
    forbidden = subscribe(updates, blind, uri)
    await engine.until(principal, run, "running")
    with acting_as(principal):
        leave = updates.watch(uri)
    loop = asyncio.get_running_loop()
    begun, before = loop.time(), len(own)
    await engine.ended(run)
    told, spent = len(own) - before, loop.time() - begun
    assert 5 <= told <= spent * 10 + 4
    assert not foreign
    assert not forbidden
    leave()
    assert not updates._watched


async def test_a_change_of_status_is_heard_soon_without_watching_frames(
    engine: Engine, updates: Updates, principal: Principal, suffix: str
) -> None:
    run = await engine.start(principal, f"ask-{suffix}")
    await engine.until(principal, run, "input_required")
    await updates.prepare()
    heard = subscribe(updates, principal, f"run://{run}")
    await engine.stores.queue.request_cancel(principal.tenant, run)
    engine.wake.send("journal")
    with anyio.fail_after(30):
        while not heard:
            await asyncio.sleep(0.01)
