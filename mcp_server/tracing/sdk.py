"""Spans as OpenTelemetry's SDK has them: the one module that is loaded only where they are sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from mcp_server import __version__
from mcp_server.tracing.chosen_ids import ChosenIds
from mcp_server.tracing.places import Place
from mcp_server.tracing.spans import EndedSpan, Value

_SCOPE = "isthmus"


class SdkSpans:
    """Makes spans of what has ended, and has them sent in batches on a thread of its own.

    The provider is ours alone: were it the process's, the MCP SDK would make spans of every message,
    whose errors are written out in them.
    """

    def __init__(self, delay_millis: int) -> None:
        self._ids = ChosenIds()
        self._provider = TracerProvider(
            resource=_resource(), id_generator=self._ids, shutdown_on_exit=False
        )
        batches = BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=delay_millis)
        self._provider.add_span_processor(batches)
        self._tracer = self._provider.get_tracer(_SCOPE, __version__)

    def add(self, span: EndedSpan) -> None:
        """Make it and have it sent soon."""
        context = Context()
        if span.parent is not None:
            above = trace.NonRecordingSpan(self._context_of(span.parent, span.name))
            context = trace.set_span_in_context(above, context)
        with self._ids.choosing(span.place):
            made = self._tracer.start_span(
                span.name,
                context,
                kind=trace.SpanKind.CLIENT if span.remote else trace.SpanKind.INTERNAL,
                attributes=_attributes(span),
                links=[trace.Link(_context(span.link, sampled=True))] if span.link else (),
                start_time=span.started,
            )
        if span.error is not None:
            made.set_status(trace.StatusCode.ERROR)
        made.end(max(span.ended, span.started))

    def close(self) -> None:
        """Send what waits; takes half a minute if the collector is away."""
        self._provider.shutdown()

    def _context_of(self, place: Place, name: str) -> trace.SpanContext:
        sampled = place.sampled
        if sampled is None:  # as it decides of the trace's first span, whoever makes that
            decided = self._provider.sampler.should_sample(None, int(place.trace_id, 16), name)
            sampled = decided.decision.is_sampled()
        return _context(place, sampled=sampled)


def _context(place: Place, *, sampled: bool) -> trace.SpanContext:
    return trace.SpanContext(
        int(place.trace_id, 16),
        int(place.span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED if sampled else 0),
    )


def _attributes(span: EndedSpan) -> dict[str, Value]:
    told: Mapping[str, Value | None] = {
        "gen_ai.operation.name": span.operation,
        "error.type": span.error,
        **span.attributes,
    }
    return {name: value for name, value in told.items() if value is not None}


def _resource() -> Resource:
    own = {
        "service.name": "isthmus",
        "service.version": __version__,
        "service.instance.id": f"{socket.gethostname()}/{os.getpid()}",
    }
    # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins.
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})
