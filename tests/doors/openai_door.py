"""The OpenAI door over real parts: gate, keys, envelope, tools over the bus, behind uvicorn; only the model is scripted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from mcp.server.subscriptions import InMemorySubscriptionBus
from openai import AsyncOpenAI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette

from mcp_server.auth.keys import KeyService
from mcp_server.auth.principal import Principal
from mcp_server.bus import Bus, ToolSpec
from mcp_server.bus_in_process import InProcess
from mcp_server.declarations import declare
from mcp_server.doors import Gate
from mcp_server.limits import Limits
from mcp_server.llm import ChatRequest, Chunk, Completion, ModelInfo
from mcp_server.llm.router import Router
from mcp_server.llm.scripted import ScriptedModel, open_scripted
from mcp_server.operation import Operations
from mcp_server.plugins import Plugins, load_plugins
from mcp_server.runs.worker import open_worker
from mcp_server.sealing import Sealer
from mcp_server.server import IsthmusServer
from mcp_server.services.agent_work import AgentWork
from mcp_server.services.agents import AgentService
from mcp_server.services.conversations import ConversationService
from mcp_server.services.kept_turns import TurnService
from mcp_server.services.kv import KvService
from mcp_server.services.models import ModelService
from mcp_server.services.run_engine import open_runs, run_stores
from mcp_server.services.runs import RunService
from mcp_server.services.stored_chats import ChatService
from mcp_server.storage.sql.wake import Wake
from mcp_server.toolbox import agent_toolbox
from openai_facade.app import routes
from openai_facade.errors import render
from openai_facade.facade import Facade

API_KEY = "sk-owner-of-the-default-tenant"
MAX_BODY = 64 * 1024


@dataclass
class Watched:
    """A model that remembers what it was asked and how each answer ended."""

    inner: ScriptedModel
    requests: list[ChatRequest] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    name: str = "scripted:"
    description: str = "scripted:"
    between: Callable[[], Any] | None = None

    async def complete(self, request: ChatRequest) -> Completion:
        self.requests.append(request)
        with self._ending():
            return await self.inner.complete(request)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        with self._ending():
            async for chunk in self.inner.stream(request):
                yield chunk
                if self.between is not None:
                    await self.between()

    def _ending(self) -> Any:
        return _Ending(self.ends)

    async def models(self) -> list[ModelInfo]:
        infos = await self.inner.models()
        return [*infos, replace(infos[0], id="vendor/with-slash")]

    def warm(self) -> None: ...


@dataclass
class _Ending:
    ends: list[str]

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.ends.append("done" if kind is None else kind.__name__)


class ThreeNumbers:
    """An embedder whose vectors tell the text's length."""

    model = "three-numbers"
    dimensions = 3
    texts: list[str]

    def __init__(self) -> None:
        self.texts = []

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.texts.extend(texts)
        return [[float(len(text)), 0.5, -1.25] for text in texts]


@dataclass
class Door:
    """An open door: `base` is what a client gets as base_url."""

    base: str
    keys: KeyService
    model: Watched
    embedder: ThreeNumbers
    agents: AgentService
    runs: RunService

    def forget(self) -> Door:
        """Be as if nobody had asked anything yet: most tests of a file share one door."""
        self.model.requests.clear()
        self.model.ends.clear()
        self.model.between = None
        self.embedder.texts.clear()
        self.embedder.dimensions = ThreeNumbers.dimensions
        return self


@asynccontextmanager
async def open_door(
    control: AsyncEngine,
    operations: Operations,
    *,
    script: Path | None = None,
    plugins: Plugins | None = None,
    limits: Limits | None = None,
    **facade: Any,
) -> AsyncIterator[Door]:
    """Serve the OpenAI door on a free port of this machine."""
    keys = KeyService(control, API_KEY)
    if limits is not None:
        operations = Operations(limits, operations._audit)
    model = Watched(open_scripted(str(script)) if script else ScriptedModel())
    embedder = ThreeNumbers()
    router = Router([model], default_model=None, announcement="")
    late: list[Bus] = []

    async def list_tools(principal: Principal) -> list[ToolSpec]:
        return await late[0].list_tools(principal)

    async with AsyncExitStack() as stack:
        wake = Wake()
        stores = run_stores(control, control)
        runs = await stack.enter_async_context(open_runs(operations, control, stores, wake))
        work = AgentWork(
            router.resolve,
            lambda principal, definition: agent_toolbox(late[0], principal, definition),
            keys.scopes_now,
            lambda run, after: stores.events.read(run, after, 100),
            runs,
        )
        agents = AgentService(operations, control, models=router.models, tools=list_tools)
        services: Any = SimpleNamespace(
            kv=KvService(operations, control),
            models=ModelService(operations, router),
            agents=agents,
            runs=runs,
            chats=ChatService(operations, control),
            turns=TurnService(operations, control),
            media=None,  # needs blobs: tests of it have a whole server
            conversations=ConversationService(operations, control),
        )
        server = IsthmusServer(
            declare(plugins or load_plugins()),
            services,
            operations,
            secret=bytes(32),
            bus=InMemorySubscriptionBus(),
        )
        late.append(Bus(InProcess(server)))
        async with control.begin() as tx:  # what other files' tests left is no work for this one
            await tx.execute(text("delete from runs where ended_at is null"))
        await stack.enter_async_context(open_worker(stores, {"agent": work}, wake))
        face = Facade(
            router=router,
            bus=late[0],
            services=services,
            operations=operations,
            embedder=embedder,
            sealer=Sealer(bytes(32), "compactions"),
            **facade,
        )
        gate = Gate(keys, auth=True, max_body_bytes=MAX_BODY)
        gate.renderers["openai"] = render
        declared = routes(face)
        gate.bind(declared)
        await stack.enter_async_context(gate.watching())
        port = await stack.enter_async_context(serve(Starlette(routes=declared)))
        yield Door(f"http://127.0.0.1:{port}/v1", keys, model, embedder, agents, runs)


def connect(door: Door, key: str = API_KEY) -> AsyncOpenAI:
    """Give a client of OpenAI's own that tries nothing again."""
    return AsyncOpenAI(base_url=door.base, api_key=key, max_retries=0)


@asynccontextmanager
async def serve(app: Any) -> AsyncIterator[int]:
    """Run an ASGI application under uvicorn in this event loop; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, log_config=None, lifespan="off", http="httptools", reset_contextvars=True
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until a condition holds; fails after a while."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
