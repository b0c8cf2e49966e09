"""OpenTelemetry spans of requests, where an exporter is configured; otherwise nothing, at no cost.

Configured as OpenTelemetry specifies it: OTEL_TRACES_EXPORTER=otlp or an OTEL_EXPORTER_OTLP_… endpoint, with the
package opentelemetry-exporter-otlp-proto-http installed; or =console. Spans are made when the answer is known, from the
times that were taken on the way. Knows neither HTTP nor models.
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from serving.errors import StartError

enabled = False
_tracer: Any = None
_provider: Any = None
_EPOCH = time.time() - time.perf_counter()  # of perf_counter, in the world's time
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def configured() -> str:
    """The exporter's name, empty for none."""
    default = "otlp" if any(os.environ.get(name) for name in _ENDPOINTS) else ""
    name = os.environ.get("OTEL_TRACES_EXPORTER", default).strip()
    return "" if name == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" else name


def start() -> None:
    """In a process that answers requests. Raises StartError for an exporter that is not to be had."""
    global enabled, _tracer, _provider
    name = configured()
    if not name:
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    exporter: Any
    if name == "console":
        exporter = ConsoleSpanExporter()
    elif name == "otlp":
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as err:
            raise StartError(
                "an OTLP exporter is configured; install opentelemetry-exporter-otlp-proto-http, or unset it"
            ) from err
        exporter = OTLPSpanExporter()
    else:
        raise StartError(f"OTEL_TRACES_EXPORTER={name}: must be otlp, console or none")
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "shortcut")})
    _provider = TracerProvider(resource=resource)
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = _provider.get_tracer("shortcut")
    enabled = True


def stop() -> None:
    """Send what was recorded and not sent yet."""
    if _provider is not None:
        _provider.shutdown()


def record(
    name: str,
    started: float,
    ended: float,
    attributes: Mapping[str, str | int],
    parts: Sequence[tuple[str, float, float]],
) -> None:
    """A span with a child for each of `parts` (name, start, end); all times by time.perf_counter()."""
    from opentelemetry import trace

    span = _tracer.start_span(name, start_time=_nanoseconds(started), attributes=dict(attributes))
    context = trace.set_span_in_context(span)
    for part, start, end in parts:
        _tracer.start_span(part, context=context, start_time=_nanoseconds(start)).end(_nanoseconds(end))
    span.end(_nanoseconds(ended))


def _nanoseconds(moment: float) -> int:
    return int((_EPOCH + moment) * 1e9)
