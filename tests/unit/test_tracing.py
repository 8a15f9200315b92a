"""Traces: what `traceparent` says, which ids follow from a run's, and what OpenTelemetry's variables ask for."""

from __future__ import annotations

import sys

import pytest

from mcp_server.errors import ConfigurationError
from mcp_server.settings_tracing import Tracing, tracing_of
from mcp_server.tracing.otlp import open_spans
from mcp_server.tracing.places import (
    Place,
    current_place,
    read_traceparent,
    run_place,
    standing_in,
    step_span,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RUN = "run_4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_a_traceparent_names_the_callers_span(text: str, sampled: bool) -> None:
    assert read_traceparent(text) == Place(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_no_traceparent_is_passed_over(text: object) -> None:
    assert read_traceparent(text) is None


def test_the_ids_of_a_run_follow_from_its_own_and_differ_from_step_to_step() -> None:
    own = run_place(RUN, None)
    assert own.trace_id == RUN.removeprefix("run_")
    assert run_place(RUN, None) == own
    below = run_place(RUN, f"00-{TRACE}-{SPAN}-01")
    assert (below.trace_id, below.span_id) == (TRACE, own.span_id)
    steps = [step_span(RUN, f"call/{number}") for number in range(100)]
    assert len({own.span_id, *steps}) == 101
    assert read_traceparent(str(own)) == Place(own.trace_id, own.span_id, sampled=True)


def test_a_place_holds_for_what_happens_inside() -> None:
    place = Place(TRACE, SPAN)
    with standing_in(place):
        with standing_in(None):
            assert current_place() == place
        with standing_in(run_place(RUN, None)):
            assert current_place() == run_place(RUN, None)
        assert current_place() == place
    assert current_place() is None


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ("OTEL_EXPORTER_OTLP_ENDPOINT", 1000)),
        (
            {
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/v1/traces",
                "OTEL_BSP_SCHEDULE_DELAY": "200",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", 200),
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_spans_are_sent_where_the_standard_variables_say_so(
    environment: dict[str, str], asked: tuple[str, int] | None
) -> None:
    assert tracing_of(environment) == (None if asked is None else Tracing(*asked))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
    ],
)
def test_a_variable_that_does_not_fit_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        tracing_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", name: value})


async def test_without_the_extra_the_start_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "mcp_server.tracing.sdk", raising=False)
    monkeypatch.delitem(sys.modules, "mcp_server.tracing.chosen_ids", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigurationError, match=r"install isthmus\[otel\]"):
        async with open_spans(Tracing("OTEL_EXPORTER_OTLP_ENDPOINT", 100)):
            pass
