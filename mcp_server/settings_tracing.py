"""What OpenTelemetry's standard variables ask of us: whether spans are sent, and how soon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mcp_server.errors import ConfigurationError
from mcp_server.settings_values import check_url

# The first counts; its address is whole, to the other one `/v1/traces` is added.
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"
_DELAY = "OTEL_BSP_SCHEDULE_DELAY"
# The SDK's own is five seconds: a process that is killed loses what it has not sent.
_DELAY_MILLIS = 1000


@dataclass(frozen=True, slots=True)
class Tracing:
    """Spans are to be sent; `variable` says so. `delay_millis` is how long one waits for others."""

    variable: str
    delay_millis: int


def tracing_of(environment: Mapping[str, str]) -> Tracing | None:
    """Read the variables that say whether spans are sent; all others are the SDK's to read.

    Raises:
        ConfigurationError: a value does not fit.
    """
    variable = next((name for name in _ENDPOINTS if environment.get(name)), None)
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if variable is None or off or environment.get("OTEL_TRACES_EXPORTER", "").strip() == "none":
        return None
    try:
        check_url(environment[variable], ("http", "https"), "http://127.0.0.1:4318")
    except ValueError as error:
        raise ConfigurationError(f"{variable}: {error}") from error
    protocol = next((name for name in _PROTOCOLS if environment.get(name)), None)
    if protocol is not None and environment[protocol] != _HTTP:
        raise ConfigurationError(
            f"{protocol}={environment[protocol]}: spans are sent by {_HTTP} only; set it to that, and "
            f"{variable} to the collector's port for it (4318)"
        )
    delay = environment.get(_DELAY) or str(_DELAY_MILLIS)
    if not delay.isascii() or not delay.isdigit() or int(delay) == 0:
        raise ConfigurationError(f"{_DELAY}={delay}: give a whole number of milliseconds above 0")
    return Tracing(variable, int(delay))
