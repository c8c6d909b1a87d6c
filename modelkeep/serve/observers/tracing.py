"""Traces through OpenTelemetry, where somebody asked for them: a span a request, with its wait and its run inside.

A request's own trace is continued (W3C Trace Context, header ``traceparent``), and its decision to be sampled kept.
"""

from __future__ import annotations

from typing import Any

from modelkeep import __version__, extras
from modelkeep.errors import BadSettings
from modelkeep.serve.plane.plane import Told

HEADER = "traceparent"
NS = 1e9
CONSOLE = "console"


class Tracing:
    """A plane's observer that sends spans to ``endpoint``, an OTLP/HTTP URL, or ``console``, which prints them.

    Spans wait in a bounded queue and are sent by a thread; those that find no room are dropped (the SDK's
    BatchSpanProcessor). Raises BadSettings for what is no address, MissingExtra without OpenTelemetry.
    """

    def __init__(self, endpoint: str, *, exporter: Any = None) -> None:
        trace: Any = extras.need("opentelemetry.sdk.trace", extra="traces")
        export: Any = extras.need("opentelemetry.sdk.trace.export", extra="traces")
        resources: Any = extras.need("opentelemetry.sdk.resources", extra="traces")
        self._api: Any = extras.need("opentelemetry.trace", extra="traces")
        self._context: Any = extras.need("opentelemetry.trace.propagation.tracecontext", extra="traces")
        if exporter is None and endpoint != CONSOLE:
            if not endpoint.startswith(("http://", "https://")):
                raise BadSettings(f"traces go to an http:// or https:// address or to '{CONSOLE}', not to '{endpoint}'")
            otlp: Any = extras.need("opentelemetry.exporter.otlp.proto.http.trace_exporter", extra="traces")
            exporter = otlp.OTLPSpanExporter(endpoint=endpoint)
        about = resources.Resource.create({"service.name": "modelkeep", "service.version": __version__})
        # a provider of our own: a program that embeds modelkeep keeps its global one
        self._provider = trace.TracerProvider(resource=about, shutdown_on_exit=False)
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter or export.ConsoleSpanExporter()))
        self._tracer = self._provider.get_tracer("modelkeep", __version__)
        self._propagator = self._context.TraceContextTextMapPropagator()

    def __call__(self, told: Told) -> None:
        """One request, after its end; its stages follow one another up to its answer."""
        request, end = told.request, told.at
        context = self._propagator.extract({HEADER: request.trace}) if request.trace else None
        span = self._tracer.start_span(
            f"infer {request.model}",
            context=context,
            kind=self._api.SpanKind.SERVER,
            start_time=round((end - told.seconds) * NS),
            attributes={
                "modelkeep.model": request.model,
                "modelkeep.version": told.version,
                "modelkeep.track": told.track,
                "modelkeep.outcome": told.outcome,
                "modelkeep.request.id": request.id,
            },
        )
        if told.why:
            span.set_status(self._api.StatusCode.ERROR, told.why)
        inside, at = self._api.set_span_in_context(span), end - sum(told.timings.values())
        for stage, seconds in told.timings.items():
            child = self._tracer.start_span(stage, context=inside, start_time=round(at * NS))
            at += seconds
            child.end(round(at * NS))
        span.end(round(end * NS))

    def close(self) -> None:
        """Send what waits, and end."""
        self._provider.shutdown()
