"""What the server tells Prometheus of itself: its queue, its runs, its operations, its doors and its engines."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_server.auth.principal import DEFAULT_TENANT, current_principal
from mcp_server.doors import DeclaredRoute, door_of
from mcp_server.errors import Forbidden
from mcp_server.gauges import engine_gauges, run_gauges, upstream_gauges
from mcp_server.llm.metered import Spent
from mcp_server.operation import Operations
from mcp_server.runs.figures import Figures, figures
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.record import Run
from mcp_server.services.model_usage import ModelUsage
from mcp_server.services.runs import RunService

logger = logging.getLogger(__name__)

URI = "metrics://server"
# Two scrapers, or one that hurries, cost the database no more than one scrape a second.
CACHE_SECONDS = 1.0
FIGURES_SECONDS = 3.0
# nginx's number for a client that left before it was answered.
CLIENT_GONE = 499

_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800)
_DURATIONS = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 15, 30, 60, 300, 900, 3600, 14400)

T = TypeVar("T")


class Metrics:
    """The counts of one application; no label names a tenant, a key or a run."""

    def __init__(
        self, operations: Operations, queue: RunQueue, usage: ModelUsage, runs: RunService
    ) -> None:
        operations.watch(self.operation_ended)
        usage.observers.append(self.model_asked)
        queue.observing.observers.append(self.run_moved)
        runs.turn_observers.append(self.turn_ended)
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._operations = Counter(
            "isthmus_operations", "Operations.", ("verb", "outcome"), registry=registry
        )
        self._requests = Counter(
            "isthmus_http_requests", "HTTP requests.", ("door", "status"), registry=registry
        )
        self._asked, self._tokens = _model_counters(registry)
        self._turns, self._calls, self._turn = _agent_metrics(registry)
        self._ended = Counter(
            "isthmus_runs_ended", "Runs ended here.", ("kind", "status"), registry=registry
        )
        self._waited = Histogram(
            "isthmus_run_queue_seconds",
            "From when a run was due to its first claim, by this process.",
            ("kind",),
            buckets=_WAITS,
            registry=registry,
        )
        self._lasted = Histogram(
            "isthmus_run_duration_seconds",
            "From a run's first claim to its end, by this process.",
            ("kind",),
            buckets=_DURATIONS,
            registry=registry,
        )

        # The library looks each series up anew, by labels made into texts, under a lock.
        self._of_operations = cache(self._operations.labels)
        self._of_requests = cache(self._requests.labels)
        self._of_asked = cache(self._asked.labels)
        self._of_tokens = cache(self._tokens.labels)

    def operation_ended(self, verb: str, outcome: str) -> None:
        """Count one operation; `outcome` is `ok` or an error's code."""
        self._of_operations(verb, outcome).inc()

    def request_answered(self, door: str, status: int) -> None:
        """Count one HTTP request."""
        self._of_requests(door, status).inc()

    def model_asked(self, spent: Spent) -> None:
        """Count one request to a model and its tokens, in and out."""
        self._of_asked(spent.model, spent.outcome).inc()
        self._of_tokens(spent.model, "prompt").inc(spent.prompt_tokens)
        self._of_tokens(spent.model, "completion").inc(spent.completion_tokens)

    def turn_ended(self, model: str, seconds: float) -> None:
        """Note a turn that an agent took here."""
        self._turn.labels(model).observe(seconds)

    def run_moved(self, run: Run) -> None:
        """Note a run that this process has just claimed or ended."""
        if run.status != "running":
            self._ended.labels(run.kind, run.status).inc()
            if run.started_at is not None and run.ended_at is not None:
                lasted = (run.ended_at - run.started_at).total_seconds()
                self._lasted.labels(run.kind).observe(max(lasted, 0.0))
            self._turns.inc(run.turns)
            self._calls.labels("ok").inc(run.tool_calls - run.tool_errors)
            self._calls.labels("error").inc(run.tool_errors)
        elif run.attempt == 1 and run.started_at is not None and run.not_before is not None:
            waited = (run.started_at - run.not_before).total_seconds()
            self._waited.labels(run.kind).observe(max(waited, 0.0))

    def counted(self) -> Iterable[Metric]:
        """Give what this process has counted."""
        for metric in self._registry.collect():
            # When a series began is of use to nobody here, and would double their number.
            metric.samples = [
                sample for sample in metric.samples if not sample.name.endswith("_created")
            ]
            yield metric


def _model_counters(registry: CollectorRegistry) -> tuple[Counter, Counter]:
    asked = Counter(
        "isthmus_model_requests", "Requests to models.", ("model", "outcome"), registry=registry
    )
    tokens = Counter(
        "isthmus_model_tokens", "Tokens of models.", ("model", "kind"), registry=registry
    )
    return asked, tokens


def _agent_metrics(registry: CollectorRegistry) -> tuple[Counter, Counter, Histogram]:
    turns = Counter("isthmus_agent_turns", "Turns of runs ended here.", registry=registry)
    calls = Counter(
        "isthmus_agent_tool_calls",
        "Tool calls of runs ended here.",
        ("outcome",),
        registry=registry,
    )
    turn = Histogram(
        "isthmus_agent_turn_seconds",
        "From when an agent's model was asked to the end of its answer, here.",
        ("model",),
        buckets=_DURATIONS,
        registry=registry,
    )
    return turns, calls, turn


class RequestCounter:
    """An ASGI application around all doors that counts what they answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._count = metrics.request_answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        def noted(message: Message) -> Awaitable[None]:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                self._count(door_of(scope), message["status"])
            return send(message)

        status = CLIENT_GONE
        try:
            await self._app(scope, receive, noted)
        except Exception:
            status = 500
            raise
        finally:
            if not answered and scope["type"] == "http":
                self._count(door_of(scope), status)


class _Recent(Generic[T]):
    """A value that is asked for once a second at most, by one caller at a time."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._known: list[T] = []
        self._asked_at = 0.0

    async def get(self) -> T:
        async with self._lock:
            if not self._known or time.monotonic() - self._asked_at >= CACHE_SECONDS:
                self._known = [await self._ask()]
                self._asked_at = time.monotonic()
            return self._known[0]


class _Scrape:
    """Everything of one moment, as the encoder takes it."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def route(
    metrics: Metrics,
    operations: Operations,
    control: AsyncEngine,
    engines: Callable[[], Awaitable[Mapping[str, bool]]],
    upstreams: Sequence[object] = (),
) -> DeclaredRoute:
    """Return /metrics, in the format that the scraper asks for.

    It tells of all tenants, so it takes no key from this machine, and from elsewhere a key of the
    default tenant with the scope `admin`, or `admin:metrics://server`.
    """

    async def ask_figures() -> Figures | None:
        try:
            async with asyncio.timeout(FIGURES_SECONDS):
                return await figures(control)
        except Exception as error:  # a door: the rest is of use all the same, now above all
            logger.warning("metrics: the figures of runs cannot be read", exc_info=error)
            return None

    recent_figures, recent_engines = _Recent(ask_figures), _Recent(engines)

    async def scrape(request: Request) -> Response:
        principal = current_principal()
        async with operations(principal, "admin", URI):
            if principal.tenant != DEFAULT_TENANT:
                raise Forbidden(f"{URI} is of the whole server: use a key of tenant 'default'")
            queue, well = await asyncio.gather(recent_figures.get(), recent_engines.get())
        found = [*metrics.counted(), *engine_gauges(well), *upstream_gauges(upstreams)]
        found += run_gauges(queue) if queue else ()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(_Scrape(found)), headers={"Content-Type": content_type})

    return DeclaredRoute(
        "/metrics", scrape, methods=["GET"], verb="admin", door="plain", local=True
    )
