"""Traces: one span for each request, or none."""

from typing import Protocol

from starlette.types import Scope

from service.api.ended_request import EndedRequest


class RequestSpan:
    """The span of one request. This one records nothing."""

    trace_id = ""

    def end(self, request: EndedRequest) -> None:
        """End the span with what the request was."""


class Tracer(Protocol):
    """Begins a span for each request."""

    def begin(self, scope: Scope) -> RequestSpan:
        """Begin the span of a request, below the one that its `traceparent` names."""


class NoTracer:
    """Records no spans."""

    _SPAN = RequestSpan()

    def begin(self, _: Scope) -> RequestSpan:
        """Return the span that records nothing."""
        return self._SPAN
