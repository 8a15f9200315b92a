"""What is read for /metrics at the moment of a scrape: engines, upstreams, the queue of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from mcp_server.llm.guarded import Guarded
from mcp_server.runs.figures import Figures


def engine_gauges(engines: Mapping[str, bool]) -> Sequence[Metric]:
    """Tell of each engine whether it answers."""
    up = GaugeMetricFamily("isthmus_engine_up", "1 if the engine answers.", labels=("engine",))
    for name, well in engines.items():
        up.add_metric((name,), float(well))
    return (up,)


def upstream_gauges(upstreams: Sequence[object]) -> Sequence[Metric]:
    """Tell of each upstream of models how it is and what it has to do."""
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


def run_gauges(found: Figures) -> Sequence[Metric]:
    """Tell of the queue of runs and of its workers."""
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
