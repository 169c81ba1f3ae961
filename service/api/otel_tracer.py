"""Spans of requests by OpenTelemetry's SDK, sent by OTLP over HTTP. Needs the extra `otel`."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from service import __version__
from service.api.ended_request import PROBES, EndedRequest
from service.api.tracing import RequestSpan

CLOSE_LIMIT_S = 2.0

_STANDARD = {
    "method": "http.request.method",
    "route": "http.route",
    "path": "url.path",
    "status": "http.response.status_code",
    "error_type": "error.type",
    "model": "gen_ai.response.model",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "generated_tokens": "gen_ai.usage.output_tokens",
}
_LEFT_OUT = {"duration_ms", "trace_id", "finish"}


class OtelTracer:
    """Begins one span for each request but probes and scrapes. Sends and receives make none.

    The provider is its own and not OpenTelemetry's global one: instrumentation that finds a global
    one makes a span for each send of a stream. OpenTelemetry's variables configure it.
    """

    def __init__(self, fields: Callable[[EndedRequest], Mapping[str, object]]) -> None:
        """`fields` returns those of a request's log record."""
        named = Resource.create({"service.name": "carousel", "service.version": __version__})
        self._provider = TracerProvider(resource=named, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("carousel", __version__)
        self._fields, self._propagator = fields, TraceContextTextMapPropagator()

    def begin(self, scope: Scope) -> RequestSpan:
        """Begin the span of a request, below the one that its `traceparent` names."""
        if scope["path"] in PROBES:
            return RequestSpan()
        wanted = {b"traceparent", b"tracestate"}
        given = {k.decode(): v.decode("latin-1") for k, v in scope["headers"] if k in wanted}
        parent = self._propagator.extract(given) if given else None
        span = self._tracer.start_span("request", context=parent, kind=SpanKind.SERVER)
        return _OtelSpan(span, self._fields)

    async def close(self) -> None:
        """Send the spans that wait; give up after CLOSE_LIMIT_S, as without a collector."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, CLOSE_LIMIT_S)


class _OtelSpan(RequestSpan):
    """The span of one request."""

    def __init__(self, span: Span, fields: Callable[[EndedRequest], Mapping[str, object]]) -> None:
        self._span, self._fields, self._began_ns = span, fields, time.time_ns()
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}" if context.is_valid else ""

    def end(self, request: EndedRequest) -> None:
        """Name the span after the route and end it."""
        span = self._span
        if span.is_recording():
            span.update_name(f"{request.method} {request.route}")
            for name, value in self._fields(request).items():
                if name not in _LEFT_OUT and isinstance(value, str | int | float):
                    span.set_attribute(_STANDARD.get(name, f"carousel.{name}"), value)
            if request.status >= 500:
                span.set_status(StatusCode.ERROR)
            if request.stats is not None:
                span.set_attribute("gen_ai.operation.name", "text_completion")
                span.set_attribute("gen_ai.response.finish_reasons", [request.finish])
                if request.stats.first_token_s is not None:
                    first_ns = self._began_ns + int(1e9 * request.stats.first_token_s)
                    span.add_event("first_token", timestamp=first_ns)
        span.end()
