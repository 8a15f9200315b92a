"""What every process opens over the control database: the envelope, keys, runs, and the services that need no data."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from mcp_server import journal
from mcp_server.audit import Audit
from mcp_server.auth.keys import KeyService
from mcp_server.control_engines import ControlEngines
from mcp_server.fetch import Allowed, Fetcher
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.runs.redaction import Redaction
from mcp_server.runs.stores import Stores
from mcp_server.services import ControlServices
from mcp_server.services.agent_checks import Taken, Tools
from mcp_server.services.agent_stats import AgentStatsService
from mcp_server.services.agents import AgentService
from mcp_server.services.batches import open_batches
from mcp_server.services.conversations import ConversationService
from mcp_server.services.idempotency import open_idempotency
from mcp_server.services.kept_turns import open_turns
from mcp_server.services.media import Files, MediaService
from mcp_server.services.models import open_models
from mcp_server.services.moves.unfinished import refuse_unfinished
from mcp_server.services.outside_tools import OutsideTools
from mcp_server.services.responses import open_responses
from mcp_server.services.run_engine import open_runs, run_stores
from mcp_server.services.run_spans import RunSpans
from mcp_server.services.runs import RunService
from mcp_server.services.stored_chats import ChatService
from mcp_server.services.traces import TraceService
from mcp_server.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What services are made of, and who may ask them."""

    engines: ControlEngines
    operations: Operations
    keys: KeyService
    stores: Stores
    runs: RunService
    traces: TraceService
    spans: RunSpans | None
    fetcher: Fetcher
    address: str


@asynccontextmanager
async def open_control_parts(
    settings: Settings, engines: ControlEngines
) -> AsyncGenerator[Control]:
    """Open the envelope, the keys and the run engine, and close them in reverse order.

    Raises:
        ConfigurationError: an import into the database has not ended, or a setting does not fit.
    """
    limits = Limits(settings.rate_limit, settings.redis_url)
    control = engines.control
    async with AsyncExitStack() as stack:
        stack.push_async_callback(limits.close)
        await refuse_unfinished(control)
        audit = Audit()
        await stack.enter_async_context(audit.writing(control))
        await stack.enter_async_context(journal.keeping_partitions(control, settings.journal_days))
        keys = KeyService(control, settings.api_key)
        operations = Operations(limits, audit, keys.rate_of, lambda: engines.wake.send("journal"))
        stores = run_stores(engines.runs, engines.heartbeat, settings.run_redact)
        spans = RunSpans(engines.spans, engines.runs) if engines.spans is not None else None
        if spans is not None:
            stores.queue.observing.observers.append(spans.run_moved)
        runs = await stack.enter_async_context(
            open_runs(operations, control, stores, engines.wake, settings.run_ttl_days.seconds)
        )
        yield Control(
            engines=engines,
            operations=operations,
            keys=keys,
            stores=stores,
            runs=runs,
            traces=TraceService(
                operations, control, stores.queue, Redaction(frozenset(settings.run_redact))
            ),
            spans=spans,
            fetcher=Fetcher(Allowed.parse(settings.fetch_allow)),
            address=address_of(settings),
        )


@asynccontextmanager
async def open_control_services(
    parts: Control, tools: Tools, files: Files, taken: Taken | None = None
) -> AsyncGenerator[ControlServices]:
    """Open the services that need no data engine; `tools` and `files` reach those that do.

    `taken` are the names of tools and prompts that no agent can have.
    """
    operations, engines = parts.operations, parts.engines
    control = engines.control
    async with (
        open_models(operations, control, engines.router, engines.cache) as models,
        open_responses(operations, control) as responses,
        open_turns(operations, control) as turns,
        open_idempotency(control) as idempotency,
        open_batches(operations, control, parts.runs) as batches,
    ):
        yield ControlServices(
            agents=AgentService(
                *(operations, control),
                models=engines.router.models,
                tools=tools,
                taken=taken,
                cost_of=engines.router.cost_of,
            ),
            agent_stats=AgentStatsService(operations, control),
            batches=batches,
            chats=ChatService(operations, control),
            conversations=ConversationService(operations, control),
            idempotency=idempotency,
            keys=parts.keys,
            media=MediaService(operations, files, parts.fetcher),
            models=models,
            outside_tools=OutsideTools(operations, parts.fetcher, parts.address),
            responses=responses,
            runs=parts.runs,
            traces=parts.traces,
            turns=turns,
        )


def address_of(settings: Settings) -> str:
    """Return where clients find this server: as the operator says, else where it listens."""
    if settings.public_url is not None:
        return settings.public_url
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
