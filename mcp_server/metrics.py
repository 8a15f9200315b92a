"""What the server tells Prometheus of itself: its queue, its runs, its operations, its doors and its engines."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_server.auth.principal import DEFAULT_TENANT, current_principal
from mcp_server.doors import DeclaredRoute, door_of
from mcp_server.errors import Forbidden
from mcp_server.llm.guarded import Guarded
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

    def operation_ended(self, verb: str, outcome: str) -> None:
        """Count one operation; `outcome` is `ok` or an error's code."""
        self._operations.labels(verb, outcome).inc()

    def request_answered(self, door: str, status: int) -> None:
        """Count one HTTP request."""
        self._requests.labels(door, str(status)).inc()

    def model_asked(self, spent: Spent) -> None:
        """Count one request to a model and its tokens, in and out."""
        self._asked.labels(spent.model, spent.outcome).inc()
        self._tokens.labels(spent.model, "prompt").inc(spent.prompt_tokens)
        self._tokens.labels(spent.model, "completion").inc(spent.completion_tokens)

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
        found = [*metrics.counted(), *_engine_gauges(well), *_upstream_gauges(upstreams)]
        found += _run_gauges(queue) if queue else ()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(_Scrape(found)), headers={"Content-Type": content_type})

    return DeclaredRoute(
        "/metrics", scrape, methods=["GET"], verb="admin", door="plain", local=True
    )


def _engine_gauges(engines: Mapping[str, bool]) -> Sequence[Metric]:
    up = GaugeMetricFamily("isthmus_engine_up", "1 if the engine answers.", labels=("engine",))
    for name, well in engines.items():
        up.add_metric((name,), float(well))
    return (up,)


def _upstream_gauges(upstreams: Sequence[object]) -> Sequence[Metric]:
    closed = GaugeMetricFamily(
        "isthmus_upstream_up", "1 unless the upstream keeps failing.", labels=("upstream",)
    )
    held = GaugeMetricFamily(
        "isthmus_upstream_requests", "Requests that it answers now.", labels=("upstream",)
    )
    waiting = GaugeMetricFamily(
        "isthmus_upstream_waiting", "Requests that wait for a place.", labels=("upstream",)
    )
    for upstream in upstreams:
        if isinstance(upstream, Guarded):
            closed.add_metric((upstream.name,), float(upstream.state == "closed"))
            held.add_metric((upstream.name,), upstream.slots.held)
            waiting.add_metric((upstream.name,), upstream.slots.waiting)
    return (closed, held, waiting)


def _run_gauges(found: Figures) -> Sequence[Metric]:
    queued = GaugeMetricFamily("isthmus_runs_queued", "Runs in the queue.", labels=("kind",))
    oldest = GaugeMetricFamily(
        "isthmus_runs_oldest_due_seconds", "How long the oldest has been due.", labels=("kind",)
    )
    for kind, queue in found.queues.items():
        queued.add_metric((kind,), queue.depth)
        oldest.add_metric((kind,), queue.oldest_seconds)
    totals = {
        "isthmus_runs_running": ("Runs that a worker holds.", found.running),
        "isthmus_runs_waiting": ("Runs that wait for an answer.", found.waiting),
        "isthmus_runs_dead_letters": ("Runs given up after retries.", found.dead_letters),
        "isthmus_run_leases": ("Workers that live.", found.leases),
        "isthmus_run_slots": ("Runs that they can hold together.", found.slots),
        "isthmus_run_lease_seconds_left": (
            "Of the worker that was silent longest.",
            found.lease_seconds_left,
        ),
    }
    gauges = [GaugeMetricFamily(name, told, value) for name, (told, value) in totals.items()]
    return (queued, oldest, *gauges)
