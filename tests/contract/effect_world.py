"""Every service that writes, over one database, with runs whose leases the tests hand around."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.llm.router import Router
from mcp_server.llm.scripted import ScriptedModel
from mcp_server.operation import Operations
from mcp_server.plugins import Call, ToolDeclaration, load_plugins
from mcp_server.runs.fence import StepKey
from mcp_server.services.agents import AgentService
from mcp_server.services.kv import KvService
from mcp_server.services.objects import ObjectService
from mcp_server.services.sql import SqlService
from mcp_server.services.units import Recovery, UnitService, UnitStores
from mcp_server.services.vectors import VectorService
from mcp_server.storage.objects.file import FileStore, open_file_store
from mcp_server.storage.sql.postgresql import PostgresqlEngine
from mcp_server.storage.vectors.postgresql import PostgresVectors
from tests.contract.vectors.hashed_words import HashedWords

# What each tool that writes is tried with, and how many entries of the journal one call makes.
# `there` was put into every store before, and `t` is a table.
CALLS: dict[str, tuple[str, dict[str, Any], int]] = {
    "kv_set": ("kv_set", {"key": "k", "value": {"a": [1, None]}}, 1),
    "kv_set, if absent": ("kv_set", {"key": "k", "value": 1, "expected_version": 0}, 1),
    "kv_set, for an hour": ("kv_set", {"key": "k", "value": "x", "ttl_seconds": 3600}, 1),
    "kv_increment": ("kv_increment", {"key": "there", "by": 0.5}, 1),
    "kv_increment, a new key": ("kv_increment", {"key": "k", "ttl_seconds": 3600}, 1),
    "kv_delete": ("kv_delete", {"key": "there"}, 1),
    # Leases are not journalled: no reader of values has to look because of them.
    "kv_lease": ("kv_lease", {"key": "k", "ttl_seconds": 3600, "owner": "ann"}, 0),
    "kv_release": ("kv_release", {"key": "k", "token": 1}, 0),
    "object_put": ("object_put", {"key": "k.txt", "text": "hello"}, 1),
    "object_put, over another": ("object_put", {"key": "there", "text": "hello"}, 1),
    "object_put, if absent": ("object_put", {"key": "k", "text": "a", "if_none_match": "*"}, 1),
    "object_copy": ("object_copy", {"key": "there", "to_key": "copied"}, 1),
    "object_copy, if absent": (
        "object_copy",
        {"key": "there", "to_key": "copied", "if_none_match": "*"},
        1,
    ),
    "object_tag": ("object_tag", {"key": "there", "tags": {"a": "b"}}, 1),
    "object_delete": ("object_delete", {"key": "there"}, 1),
    "vector_add": ("vector_add", {"store": "s", "text": "some words", "document": "d"}, 1),
    "vector_add, unnamed": ("vector_add", {"store": "s", "text": "some other words"}, 1),
    "vector_add, a new store": ("vector_add", {"store": "new", "text": "some words"}, 1),
    "vector_delete": ("vector_delete", {"store": "s", "document": "there"}, 1),
    "vector_delete, many": (
        "vector_delete",
        {"store": "s", "filter": {"type": "eq", "key": "kind", "value": "old"}},
        2,
    ),
    "vector_update": (
        "vector_update",
        {"store": "s", "metadata": {"kind": "new"}, "document": "there"},
        1,
    ),
    "vector_update, many": (
        "vector_update",
        {
            "store": "s",
            "metadata": {"kind": "new"},
            "filter": {"type": "eq", "key": "kind", "value": "old"},
        },
        2,
    ),
    "vector_store_delete": ("vector_store_delete", {"store": "s"}, 1),
    "write_together": (
        "write_together",
        {
            "keys": [{"key": "k", "value": 1}, {"key": "there", "delete": True}],
            "objects": [{"key": "there", "text": "hello"}],
            "documents": [{"store": "s", "text": "some words", "document": "d"}],
        },
        4,
    ),
    "agent_save": ("agent_save", {"name": "helper", "instructions": "Help."}, 1),
    "sql_execute": (
        "sql_execute",
        {"sql": "insert into t values ($1) returning a, clock_timestamp()", "params": [7]},
        2,
    ),
    "sql_execute, without rows": ("sql_execute", {"sql": "update t set a = a + 1"}, 2),
    "sql_execute, a definition": ("sql_execute", {"sql": "create table u (b int)"}, 2),
    "sql_execute, two tables": (
        "sql_execute",
        {"sql": "with x as (delete from t returning a) insert into v select a from x returning a"},
        4,
    ),
    "sql_execute, a sequence": ("sql_execute", {"sql": "select nextval('s')"}, 2),
}
WRITING_DOMAINS = {"kv", "sql", "objects", "vectors", "units"}

_TABLES = (
    "kv",
    "kv_leases",
    "objects",
    "vector_stores",
    "documents",
    "chunks",
    "chunk_vectors",
    "agents",
)


def writing_tools() -> dict[str, ToolDeclaration]:
    """Return the tools of the product that write data, by name."""
    return {
        item.name: item
        for item in load_plugins(()).tools
        if item.name == "agent_save"
        or (item.verb == "write" and Path(item.fn.__code__.co_filename).stem in WRITING_DOMAINS)
    }


@dataclass
class World:
    """Calls the tools themselves, as a door would, with the key of a call."""

    control: AsyncEngine
    services: Any
    blobs: FileStore
    embedder: HashedWords
    engine: PostgresqlEngine

    async def call(self, who: Principal, tool: str, step: str | None, /, **arguments: Any) -> Any:
        declared = writing_tools()[tool]
        return await declared.fn(Call(who, self.services, key=step), **arguments)

    async def prepare(self, who: Principal) -> None:
        """Put `there` into every store, and make the tables `t` and `v` and the sequence `s`."""
        await self.services.kv.set(who, "default", "there", 1)
        await self.services.objects.put(who, "default", "there", text="old")
        for document in ("there", "there too"):
            metadata = {"kind": "old"}
            await self.services.vectors.add(
                who, "s", document, document=document, metadata=metadata
            )
        for sql in (
            "create table t (a int)",
            "create table v (a int)",
            "create sequence s",
            "insert into t values (1), (2)",
        ):
            await self.services.sql.execute(who, sql)

    async def state(self, who: Principal) -> dict[str, Any]:
        """Everything that a call can change, marks aside."""
        shown: dict[str, Any] = {}
        async with self.control.connect() as connection:
            for table in _TABLES:
                query = text(f"select x::text from {table} x where tenant = :t order by 1")
                shown[table] = (await connection.execute(query, {"t": who.tenant})).scalars().all()
            query = text("select verb, uri, run, step from journal where tenant = :t order by seq")
            rows = await connection.execute(query, {"t": who.tenant})
            shown["journal"] = [tuple(row) for row in rows]
        tables = (await self.services.sql.schema(who, detail="names"))["tables"]
        for table in tables:
            query = f'select * from "{table["name"]}" order by 1'
            shown[f"sql {table['name']}"] = (await self.services.sql.query(who, query))["rows"]
        shown["blobs"] = sorted([blob.key async for blob in self.blobs.list()])
        return shown

    async def journal(self, who: Principal, step: str) -> list[tuple[str, str | None]]:
        """Return verb and run of the entries of one step."""
        query = text("select verb, run from journal where tenant = :t and step = :s order by seq")
        async with self.control.connect() as connection:
            rows = await connection.execute(query, {"t": who.tenant, "s": step})
            return [(row.verb, row.run) for row in rows]


@asynccontextmanager
async def open_world(
    control: AsyncEngine, operations: Operations, engine: PostgresqlEngine, folder: Path
) -> AsyncGenerator[World]:
    embedder = HashedWords()
    router = Router([ScriptedModel()], default_model=None, announcement="")

    async def no_tools(_: Principal) -> list[Any]:
        return []

    async with open_file_store(folder) as blobs:
        services = SimpleNamespace(
            kv=KvService(operations, control),
            objects=ObjectService(operations, control, blobs),
            vectors=VectorService(operations, control, PostgresVectors(control), embedder),
            agents=AgentService(operations, control, models=router.models, tools=no_tools),
            sql=SqlService(operations, control, engine),
        )
        stores = UnitStores(services.kv, services.objects, services.vectors)
        recovery = Recovery(operations, control, stores, engine.units)
        services.units = UnitService(operations, control, stores, engine, engine.units, recovery)
        yield World(control, cast("Any", services), blobs, embedder, engine)


async def begin_run(control: AsyncEngine, tenant: str) -> StepKey:
    """Store a run that a lease of its own holds; return a key of a step of it."""
    run = f"run_{uuid.uuid4().hex}"
    async with control.begin() as tx:
        await tx.execute(
            text(
                "insert into runs (id, tenant, subject, grant_scopes, kind, input, status)"
                " values (:run, :tenant, 'tester', '{}', 'test', 'null', 'queued')"
            ),
            {"run": run, "tenant": tenant},
        )
        held = await _hold(tx, run)
    return StepKey(run, f"{run}/call/1", *held)


async def take_over(control: AsyncEngine, step: StepKey) -> StepKey:
    """Let another worker take the run, as after a lost lease; return the same step's key with it."""
    async with control.begin() as tx:
        await tx.execute(
            text("update runs set status = 'queued', lease = null where id = :run"),
            {"run": step.run},
        )
        return StepKey(step.run, step.key, *await _hold(tx, step.run))


async def finish_run(control: AsyncEngine, step: StepKey) -> None:
    async with control.begin() as tx:
        await tx.execute(
            text(
                "update runs set status = 'cancelled', lease = null, ended_at = now() where id = :run"
            ),
            {"run": step.run},
        )


async def _hold(tx: AsyncConnection, run: str) -> tuple[int, int]:
    epoch = await tx.scalar(
        text(
            "insert into run_leases (worker, slots, expires_at)"
            " values ('test', 1, now() + interval '1 hour') returning epoch"
        )
    )
    attempt = await tx.scalar(
        text(
            "update runs set status = 'running', lease = :epoch, attempt = attempt + 1"
            " where id = :run returning attempt"
        ),
        {"run": run, "epoch": epoch},
    )
    return cast("int", epoch), cast("int", attempt)
