"""The composition root: settings become engines, services, the MCP server and the worker."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.keys import KeyService
from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus, ToolSpec
from mcp_server.bus_in_process import InProcess
from mcp_server.completions import add_completions
from mcp_server.control import address_of, open_control_parts, open_control_services
from mcp_server.declarations import Declared, declare
from mcp_server.engines import Engines, open_engines
from mcp_server.extensions.announcing import announce_to_modern_clients
from mcp_server.extensions.tasks import TasksExtension
from mcp_server.extensions.tasks_listen import serve_task_notifications
from mcp_server.handshake import add_handshake_methods
from mcp_server.operation import Operations
from mcp_server.plugins import Plugins, load_plugins, set_up
from mcp_server.runs.context import Work
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.stores import Stores
from mcp_server.runs.worker import Worker, open_worker
from mcp_server.secret import derive, server_secret
from mcp_server.server import IsthmusServer
from mcp_server.services import Services
from mcp_server.services.agent_work import AgentWork
from mcp_server.services.buckets import BucketService, RoutedObjects
from mcp_server.services.changes import ChangeService
from mcp_server.services.file_uploads import FileUploadService
from mcp_server.services.files import FileService
from mcp_server.services.ingest import IngestService
from mcp_server.services.kv import KvService, keeping_kv
from mcp_server.services.media import StoredFiles
from mcp_server.services.objects import collecting
from mcp_server.services.objects.links import LinkService
from mcp_server.services.objects.uploads import UploadService
from mcp_server.services.run_access import RunAccess
from mcp_server.services.run_results import INGESTION_KIND, TOOL_KIND
from mcp_server.services.run_spans import RunSpans
from mcp_server.services.run_undo import RunUndoService
from mcp_server.services.run_writes import RunWrites
from mcp_server.services.runs import RunService
from mcp_server.services.schedules import ScheduleService
from mcp_server.services.sql import SqlService
from mcp_server.services.standing_keeper import keeping_standing
from mcp_server.services.standing_work import WorkStarter
from mcp_server.services.tool_work import ToolWork
from mcp_server.services.triggers import TriggerService
from mcp_server.services.undo import UndoService
from mcp_server.services.units import UnitStores, open_units
from mcp_server.services.vector_stores.keeping import keeping_stores
from mcp_server.services.vector_stores.service import VectorStoreService
from mcp_server.services.vector_stores.work import IngestionWork
from mcp_server.services.vectors import VectorService
from mcp_server.services.vectors.keeping import keeping_versions
from mcp_server.services.vectors.reading import queries_at_once
from mcp_server.settings import Settings
from mcp_server.sql_tools import check_sql_tools, declare_sql_tools
from mcp_server.storage.sql.wake import TOPICS
from mcp_server.toolbox import agent_toolbox
from mcp_server.updates import Updates, serve_listening

logger = logging.getLogger(__name__)

FRAMES_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Everything that is open while a process serves."""

    settings: Settings
    engines: Engines
    operations: Operations
    services: Services
    server: IsthmusServer
    bus: Bus
    updates: Updates
    stores: Stores
    worker: Worker | None
    # By kind: what stands above adds its own, also while the worker works.
    works: dict[str, Work]


@asynccontextmanager
async def open_runtime(
    settings: Settings, *, concurrency: int | None = None
) -> AsyncGenerator[Runtime]:
    """Open the engines once, whatever doors are opened on them, and close them in reverse order.

    `concurrency` is how many runs its worker executes at once, 0 for none; the settings say otherwise.

    Raises:
        ConfigurationError: a setting does not fit, or an engine does not open.
    """
    plugins = load_plugins(settings.plugins)
    taken = {item.name for item in plugins.tools}
    plugins.tools += declare_sql_tools(settings.sql_tools, taken)
    declared = declare(plugins)
    secret = server_secret(settings)
    async with AsyncExitStack() as stack:
        engines = await stack.enter_async_context(
            open_engines(settings, derive(secret, "sql roles"))
        )
        parts = await stack.enter_async_context(open_control_parts(settings, engines))
        control, operations = engines.control, parts.operations
        keys, stores, runs = parts.keys, parts.stores, parts.runs
        # The bus stands above the services, and runs call tools through it: it is bound below.
        late: list[Bus] = []

        async def list_tools(principal: Principal) -> list[ToolSpec]:
            return await late[0].list_tools(principal)

        objects = RoutedObjects(
            *(operations, control, engines.blobs, settings.undo_days),
            BucketService(operations, control, engines.buckets),
        )
        await stack.enter_async_context(keeping_kv(control, settings.undo_days))
        await stack.enter_async_context(keeping_versions(control, settings.undo_days))
        await stack.enter_async_context(keeping_stores(control, engines.vectors))
        standing = _standing(engines, operations, stores, declared, settings)
        kv = KvService(operations, control, cache=engines.cache, undo_days=settings.undo_days)
        vectors = VectorService(
            *(operations, control, engines.vectors, engines.embedder),
            undo_days=settings.undo_days,
            embeddings_at_once=queries_at_once(settings.embeddings_url),
        )
        unit_stores = UnitStores(kv, objects, vectors)
        versioned = {"kv": kv, "object": objects, "vector": vectors}
        units = await stack.enter_async_context(
            open_units(operations, control, unit_stores, engines.sql, engines.units)
        )
        shared = await stack.enter_async_context(
            open_control_services(parts, list_tools, StoredFiles(objects), declared.names)
        )
        vector_stores = VectorStoreService(
            *(operations, control, engines.vectors, engines.embedder, vectors, runs)
        )
        await stack.enter_async_context(
            collecting(
                *(control, engines.blobs),
                undo_days=settings.undo_days,
                leave=vector_stores.leave_expired,
            )
        )
        services = Services(
            agents=shared.agents,
            agent_stats=shared.agent_stats,
            batches=shared.batches,
            changes=ChangeService(operations, control),
            chats=shared.chats,
            conversations=shared.conversations,
            file_uploads=FileUploadService(operations, control, objects, settings.max_object_bytes),
            files=FileService(operations, control, objects, vector_stores.leave_all),
            idempotency=shared.idempotency,
            ingest=IngestService(operations, control, objects, vectors, parts.fetcher),
            keys=keys,
            kv=kv,
            links=LinkService(operations, control, objects, keys.scopes_now, address_of(settings)),
            media=shared.media,
            models=shared.models,
            objects=objects,
            outside_tools=shared.outside_tools,
            responses=shared.responses,
            runs=runs,
            run_undo=RunUndoService(
                *(operations, control, RunAccess(operations, stores.queue)),
                RunWrites(control, _outward(plugins)),
                versioned,
            ),
            schedules=ScheduleService(*standing),
            traces=shared.traces,
            triggers=TriggerService(*standing),
            turns=shared.turns,
            sql=SqlService(operations, control, engines.sql, engines.databases),
            undo=UndoService(operations, control, versioned),
            units=units,
            uploads=UploadService(operations, control, objects, settings.max_object_bytes),
            vector_stores=vector_stores,
            vectors=vectors,
        )
        await check_sql_tools(settings.sql_tools, services.sql)
        updates = Updates()
        server = IsthmusServer(
            declared,
            services,
            operations,
            secret=derive(secret, "request state"),
            bus=updates,
            extensions=[TasksExtension(operations, runs, declared.tools)],
        )
        announce_to_modern_clients(server)
        add_handshake_methods(server, updates)
        serve_listening(server, updates)
        serve_task_notifications(server, operations, runs)
        add_completions(server, services, plugins.completions)
        await set_up(plugins, server)
        await server.refuse_undeclared_tools()
        await stack.enter_async_context(updates.following(control, engines.wake, runs.following))
        late.append(Bus(InProcess(server)))
        slots = settings.run_concurrency if concurrency is None else concurrency
        works = _works(engines, keys, stores, server, late[0], runs, parts.spans)
        works[INGESTION_KIND] = IngestionWork(
            *(control, operations, services.files, services.ingest, vectors, keys.scopes_now)
        )
        worker = slots and await stack.enter_async_context(
            open_worker(
                *(stores, works, engines.wake),
                concurrency=slots,
                idling=runs.idling,
                marks=[services.sql],
            )
        )
        if worker:
            await stack.enter_async_context(
                keeping_standing(
                    *(services.schedules, services.triggers, engines.wake),
                    keeper=lambda: worker.keeper,
                )
            )
        yield Runtime(
            settings=settings,
            engines=engines,
            operations=operations,
            services=services,
            server=server,
            bus=late[0],
            updates=updates,
            stores=stores,
            worker=worker or None,
            works=works,
        )


def _outward(plugins: Plugins) -> set[str]:
    """Return the tools whose effects outside of this server nothing here can take back."""
    return {tool.name for tool in plugins.tools if tool.egress and not tool.read_only}


def _standing(
    engines: Engines,
    operations: Operations,
    stores: Stores,
    declared: Declared,
    settings: Settings,
) -> tuple[Operations, AsyncEngine, RunQueue, WorkStarter, Callable[[], None]]:
    """Return what schedules and triggers are made of: what they start goes to the queue of runs."""
    long_tools = {tool.name: tool for tool in declared.tools if tool.long}

    def started() -> None:
        for topic in TOPICS:
            engines.wake.send(topic)

    starter = WorkStarter(operations, long_tools.get, settings.run_ttl_days.seconds)
    return operations, engines.runs, stores.queue, starter, started


def _works(
    engines: Engines,
    keys: KeyService,
    stores: Stores,
    server: IsthmusServer,
    bus: Bus,
    runs: RunService,
    spans: RunSpans | None,
) -> dict[str, Work]:
    """Return what each kind of run does."""
    works: dict[str, Work] = {
        f"{TOOL_KIND}{tool.name}": ToolWork(
            tool.name, tool.idempotent, tool.retry_unsure, bus.work, keys.scopes_now
        )
        for tool in server.declared_tools.values()
        if tool.long
    }
    works["agent"] = AgentWork(
        model_for=engines.router.resolve,
        toolbox_for=lambda principal, definition: agent_toolbox(bus, principal, definition),
        scopes_now=keys.scopes_now,
        events_of=lambda run, after: stores.events.read(run, after, FRAMES_AT_ONCE),
        runs=runs,
        cost_of=engines.router.cost_of,
        spans=spans,
        turn_observers=runs.turn_observers,
    )
    return works
