"""Traces: one span for each request, or none."""

from collections.abc import Callable, Mapping
from typing import Protocol

from starlette.types import Scope

from service.api.ended_request import EndedRequest
from service.errors import BadRequest

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class RequestSpan:
    """The span of one request. This one records nothing."""

    trace_id = ""

    def end(self, request: EndedRequest) -> None:
        """End the span with what the request was."""


class Tracer(Protocol):
    """Begins a span for each request."""

    def begin(self, scope: Scope) -> RequestSpan:
        """Begin the span of a request, below the one that its `traceparent` names."""

    async def close(self) -> None:
        """Send the spans that wait, within seconds."""


class NoTracer:
    """Records no spans."""

    _SPAN = RequestSpan()

    def begin(self, _: Scope) -> RequestSpan:
        """Return the span that records nothing."""
        return self._SPAN

    async def close(self) -> None:
        """Do nothing."""


def check_traces(environment: Mapping[str, str]) -> str | None:
    """Return the variable that asks for traces, None if none does.

    Raises BadRequest where the extra `otel` is not installed.
    """
    endpoint = next((name for name in ENDPOINTS if environment.get(name)), None)
    if endpoint is not None:
        try:
            import service.api.otel_tracer  # noqa: F401, PLC0415 (an extra)
        except ImportError as error:
            raise BadRequest(
                f"{endpoint} is set, but OpenTelemetry is not installed: "
                "pip install 'carousel-serve[otel]', or unset the variable"
            ) from error
    return endpoint


def tracer_of(
    environment: Mapping[str, str], fields: Callable[[EndedRequest], Mapping[str, object]]
) -> Tracer:
    """Return the tracer that OpenTelemetry's variables ask for: without an endpoint there is none.

    `fields` are those of a request's log record, which its span has too. Raises as `check_traces`.
    """
    if check_traces(environment) is None:
        return NoTracer()
    from service.api.otel_tracer import OtelTracer  # noqa: PLC0415 (an extra)

    return OtelTracer(fields)
