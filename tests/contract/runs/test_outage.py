"""The database goes away and comes back: nothing is lost, nothing is done twice, and the log stays short."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.storage.sql.control import open_control
from mcp_server.storage.sql.embedded import Cluster, open_cluster
from tests.conftest import make_tenant
from tests.contract.runs.engine import QUICK, Engine, new_suffix, open_engine

AWAY_SECONDS = 3 * QUICK.lease


class Gate:
    """A way to the database that can be shut."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._open = True
        self._writers: set[asyncio.StreamWriter] = set()

    def shut(self) -> None:
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    def open(self) -> None:
        self._open = True

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._socket)
        self._writers |= {writer, inner_writer}
        try:
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
        finally:
            self._writers -= {writer, inner_writer}
            for each in (writer, inner_writer):
                each.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.transport.abort()


@asynccontextmanager
async def gate_to(cluster: Cluster) -> AsyncGenerator[tuple[Gate, str]]:
    """Yield a gate before the cluster, and the URL that leads through it."""
    parts = urlsplit(cluster.control_url)
    gate = Gate(f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432")
    server = await asyncio.start_server(gate.pass_on, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = parts.netloc.rpartition("@")[0]
    try:
        yield gate, f"postgresql://{user}@127.0.0.1:{port}{parts.path}"
    finally:
        gate.shut()
        server.close()


async def test_an_outage_longer_than_the_lease_neither_loses_nor_doubles(
    cluster: Cluster, principal: Principal, caplog: pytest.LogCaptureFixture
) -> None:
    suffix = new_suffix()
    async with gate_to(cluster) as (gate, url), open_engine(cluster.control_url) as client:
        async with open_engine(url, suffix) as engine, open_engine(url, suffix) as other:
            given = {"count": 8, "seconds": 0.2}
            runs = [await client.start(principal, f"steps-{suffix}", given) for _ in range(4)]
            for run in runs:
                await client.trying(run, "step/1")
            gate.shut()
            caplog.clear()
            await asyncio.sleep(AWAY_SECONDS)
            assert len(caplog.records) < 12
            gate.open()
            for run in runs:
                await check_once(client, principal, run, 8)
            del engine, other
    assert await client_leased(cluster) == 0


async def client_leased(cluster: Cluster) -> int:
    async with open_engine(cluster.control_url) as client:
        return await client.leased()


async def check_once(client: Engine, principal: Principal, run: str, count: int) -> None:
    """The run ends well, in its first attempt, each step done once and each event told once."""
    told = await client.ended(run)
    ended = await client.load(principal, run)
    assert (ended.status, ended.attempt) == ("completed", 1)
    assert await client.trials(run) == [f"step/{number}" for number in range(count)]
    done = [event["step"] for event in told if event["type"] == "done"]
    assert done == [f"step/{number}" for number in range(count)]


async def test_a_killed_postmaster_costs_nothing_but_time(data_dir: Path) -> None:
    suffix = new_suffix()
    async with open_cluster(data_dir) as cluster:
        async with open_control(cluster.control_url) as control:
            await journal.ensure_partitions(control)
            principal = await make_tenant(control)
        async with open_engine(cluster.control_url, suffix) as engine:
            given = {"count": 6, "seconds": 0.2}
            runs = [await engine.start(principal, f"steps-{suffix}", given) for _ in range(2)]
            for run in runs:
                await engine.trying(run, "step/1")
            pid = (data_dir / "postgres/pgdata/postmaster.pid").read_text().splitlines()[0]
            os.kill(int(pid), signal.SIGKILL)
            for run in runs:
                told = await engine.ended(run)
                assert told[-1]["status"] == "completed"
                done = [event["step"] for event in told if event["type"] == "done"]
                assert done == [f"step/{number}" for number in range(6)]
            assert await engine.leased() == 0


async def test_connections_that_are_cut_again_and_again_lose_nothing(
    cluster: Cluster, principal: Principal
) -> None:
    suffix = new_suffix()
    async with gate_to(cluster) as (gate, url), open_engine(cluster.control_url) as client:
        async with open_engine(url, suffix):
            run = await client.start(principal, f"talk-{suffix}", {"count": 300, "seconds": 0.01})
            await client.until(principal, run, "running")
            ending = asyncio.create_task(client.ended(run))
            while not ending.done():
                gate.shut()
                gate.open()
                await asyncio.sleep(0.15)
            told = await ending
        texts = [event["text"] for event in told if event["type"] == "text"]
        assert texts == [f"{number} " for number in range(300)]
