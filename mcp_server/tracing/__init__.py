"""Spans of runs, of models' calls and of tools' calls, for whoever collects traces with OpenTelemetry."""
