"""A process that stands still inside a transaction loses it, and knows that a repetition is harmless."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import Unavailable
from mcp_server.operation import Operation, Operations
from mcp_server.services.kv import KvService
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql import control as control_database
from mcp_server.storage.sql import execution, postgresql
from mcp_server.storage.sql.control import open_pool
from mcp_server.storage.sql.embedded import Cluster
from mcp_server.storage.sql.tenant_effects import Mark
from mcp_server.storage.sql.wire import Session
from tests.conftest import SECRET

IDLE_SECONDS = 0.3
STILL_SECONDS = 1.0


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def host(cluster: Cluster) -> Iterator[str]:
    """A way to the cluster over TCP: what was sent before its end came is accepted, and read first."""
    path = parse_qs(urlsplit(cluster.control_url).query)["host"][0] + "/.s.PGSQL.5432"
    opened: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    outer, _ = server.accept()
                    inner = socket.socket(socket.AF_UNIX)
                    inner.connect(path)
                    opened.extend((outer, inner))
                    for way in ((outer, inner), (inner, outer)):
                        threading.Thread(target=_copy, args=way, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for end in opened:
        end.close()


@pytest.fixture(params=["socket", "tcp"])
def over(request: pytest.FixtureRequest, host: str) -> Any:
    def changed(url: str) -> str:
        if request.param == "socket":
            return url
        parts = urlsplit(url)
        return f"postgresql://{parts.netloc.rpartition('@')[0]}@{host}{parts.path}"

    return changed


@pytest.fixture
async def sql(
    cluster: Cluster,
    over: Any,
    operations: Operations,
    control: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[SqlService]:
    idle = f"{int(IDLE_SECONDS * 1000)}ms"
    monkeypatch.setitem(execution.FIXED_SETTINGS, "idle_in_transaction_session_timeout", idle)
    async with postgresql.open_postgresql(over(cluster.data_url), SECRET) as engine:
        yield SqlService(operations, control, engine)


@pytest.fixture
async def kv(
    cluster: Cluster, over: Any, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KvService]:
    settings = {"idle_in_transaction_session_timeout": f"{int(IDLE_SECONDS * 1000)}ms"}
    monkeypatch.setattr(control_database, "SESSION", control_database.SESSION | settings)
    async with open_pool(over(cluster.control_url), pool_size=1, overflow=0) as engine:
        yield KvService(operations, engine)


async def test_a_statement_that_stood_still_is_tried_again(
    sql: SqlService, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql.execute(principal, "create table t (a int)")
    original = Mark.finish
    stood = False

    async def finish(mark: Mark, session: Session, result: Any) -> None:
        nonlocal stood
        if not stood:
            stood = True
            time.sleep(STILL_SECONDS)  # noqa: ASYNC251  as SIGSTOP does, it stops everything
        await original(mark, session, result)

    monkeypatch.setattr(Mark, "finish", finish)
    insert = "insert into t values (1)"
    with pytest.raises(Unavailable):
        await sql.execute(principal, insert, key="once")
    assert (await sql.execute(principal, insert, key="once"))["row_count"] == 1
    assert (await sql.query(principal, "select a from t"))["rows"] == [[1]]


async def test_a_write_that_stood_still_is_tried_again(
    kv: KvService, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Operation.remember
    stood = False

    async def remember(op: Operation, tx: AsyncConnection, answer: Any, verb: Any = None) -> Any:
        nonlocal stood
        if not stood:
            stood = True
            time.sleep(STILL_SECONDS)  # noqa: ASYNC251  as SIGSTOP does, it stops everything
        return await original(op, tx, answer, verb)

    monkeypatch.setattr(Operation, "remember", remember)
    with pytest.raises(Unavailable):
        await kv.set(principal, "default", "k", 1, idempotency_key="once")
    item = await kv.set(principal, "default", "k", 1, idempotency_key="once")
    assert await kv.get(principal, "default", "k") == item


async def test_a_write_that_stood_still_before_its_commit_is_tried_again(
    kv: KvService, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Operation.remember
    stood = False

    async def remember(op: Operation, tx: AsyncConnection, answer: Any, verb: Any = None) -> Any:
        nonlocal stood
        result = await original(op, tx, answer, verb)
        if not stood:
            stood = True
            time.sleep(STILL_SECONDS)  # noqa: ASYNC251  as SIGSTOP does, it stops everything
        return result

    monkeypatch.setattr(Operation, "remember", remember)
    with pytest.raises(Unavailable):
        await kv.set(principal, "default", "k", 1, idempotency_key="once")
    item = await kv.set(principal, "default", "k", 1, idempotency_key="once")
    assert await kv.get(principal, "default", "k") == item
