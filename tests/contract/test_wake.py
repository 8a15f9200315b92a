"""Wake-ups: at once in this process, soon in others, few on the wire, and never for ever lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.wake import Wake, open_wake


@pytest.fixture
async def here(cluster: Cluster) -> AsyncIterator[Wake]:
    async with open_wake(cluster.control_url) as wake:
        yield wake


@pytest.fixture
async def there(cluster: Cluster) -> AsyncIterator[Wake]:
    async with open_wake(cluster.control_url) as wake:
        yield wake


async def woken(event: asyncio.Event) -> None:
    with anyio.fail_after(5):
        await event.wait()
    event.clear()


async def meet(here: Wake, there: Wake) -> None:
    """Return when a wake-up of the first one reaches the second: both are connected."""
    with there.listening("queue") as event, anyio.fail_after(10):
        while True:
            event.clear()
            here.send("queue")
            with anyio.move_on_after(0.2):
                await event.wait()
                return


async def test_a_wake_up_reaches_its_own_topic_here_at_once_and_elsewhere_soon(
    here: Wake, there: Wake
) -> None:
    await meet(here, there)
    await meet(there, here)
    with (
        here.listening("runs") as own,
        there.listening("runs") as others,
        there.listening("journal") as deaf,
    ):
        for event in (own, others, deaf):
            event.clear()
        here.send("runs")
        assert own.is_set()
        await woken(others)
        assert not deaf.is_set()


async def test_a_thousand_wake_ups_are_few_on_the_wire(
    here: Wake, there: Wake, cluster: Cluster
) -> None:
    await meet(here, there)
    heard: list[str] = []
    connection = await asyncpg.connect(cluster.control_url)
    try:
        await connection.add_listener("isthmus_journal", lambda *told: heard.append(told[2]))
        begun = asyncio.get_running_loop().time()
        for _ in range(1000):
            here.send("journal")
            await asyncio.sleep(0.0005)
        spent = asyncio.get_running_loop().time() - begun
        with anyio.fail_after(5):
            while not heard:
                await asyncio.sleep(0.01)
        await connection.execute("select 1")
        assert len(heard) <= spent * 50 + 2
    finally:
        await connection.close()


async def test_a_lost_connection_is_made_again_and_wakes_everyone(
    here: Wake, there: Wake, control: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await meet(here, there)
    with there.listening("runs") as event:
        event.clear()
        async with control.connect() as tx:
            cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'isthmus wake'"
            assert (await tx.execute(text(cut))).all()
        await woken(event)  # nobody sent anything: it may have missed something
        await meet(here, there)
    assert "wake-ups wait for the control database" in caplog.text


async def test_sending_without_a_database_fails_nobody() -> None:
    async with open_wake("postgresql://nobody@127.0.0.1:1/none") as wake:
        with wake.listening("queue") as event:
            wake.send("queue")
            await woken(event)


async def test_what_was_sent_just_before_the_end_reaches_the_others(
    there: Wake, cluster: Cluster
) -> None:
    with there.listening("journal") as event:
        async with open_wake(cluster.control_url) as brief:
            await meet(brief, there)
            event.clear()
            brief.send("runs")
            brief.send("journal")
        await woken(event)
