"""A streamed completion, over all the connections of one reader."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2

from carousel_client import operations
from carousel_client.errors import (
    CarouselClientError,
    PositionMismatch,
    StatusError,
    StreamBroken,
    UnexpectedResponse,
    Unreachable,
    error_from_event,
    error_from_response,
)
from carousel_client.operations import Request
from carousel_client.responses import GenerationResult, Token
from carousel_client.retry_policy import STREAM_SILENCE_S, RetryPolicy
from carousel_client.sse import EventDecoder, ServerSentEvent


class ResumableStream:
    """The tokens received so far, and the request that resumes; implements `Resumable`.

    A session's turn is resumed after the last complete event: through the session's events, or,
    before the first event, by the same request, whose idempotency key selects the same turn. Every
    token is yielded once, in order. Source: docs/reference/http.md, "Sessions".
    """

    def __init__(self, first: Request, session_id: str | None, timeout_s: float) -> None:
        self.result: GenerationResult | None = None
        self.is_finished = False
        self._first, self._session_id = first, session_id
        self._policy = RetryPolicy(timeout_s)
        self._texts: list[str] = []
        self._last_id = ""
        self._turn, self._position = "", -1  # of the last event
        self._repeats_first = self._has_progress = False
        self._start_connection(None)

    @property
    def text(self) -> str:
        """The text received so far."""
        return "".join(self._texts)

    @property
    def request(self) -> Request:
        """The first request, or the one for the events after the last one received."""
        if self._session_id is None or not self._last_id or self._repeats_first:
            return self._first
        return operations.session_events(self._session_id, self._last_id)

    @property
    def timeout(self) -> httpx2.Timeout:
        """The limits of the next connection."""
        return self._policy.timeout(STREAM_SILENCE_S)

    def start_response(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take a response's head; return whether its body is a stream.

        Raises:
            UnexpectedResponse: the status is 200, and the body is no stream of events.

        """
        self._start_connection(headers.get("x-request-id"))
        if status != 200:
            return False
        if not headers.get("content-type", "").startswith("text/event-stream"):
            raise self._with_text(UnexpectedResponse("the response is not a stream of events"))
        return True

    def feed(self, chunk: bytes) -> Iterator[Token]:
        """Yield the tokens that a chunk of the body completes. Raises an error event's error."""
        for event in self._decoder.feed(chunk):
            if not self.is_finished:
                yield from self._take(event)

    def delay_after_status(self, status: int, headers: Mapping[str, str], content: bytes) -> float:
        """Return the seconds to wait after a response without a stream. Raises a final error."""
        if status == 204:
            return self._after_no_content()
        status_error = error_from_response(status, headers, content)
        try:
            return self._policy.delay_after_status(self.request, status_error)
        except CarouselClientError as error:
            raise self._with_text(error) from None

    def delay_after_disconnect(self, error: Exception | None) -> float:
        """Return the seconds to wait after a connection has ended before the stream.

        Raises:
            StreamBroken: the stream cannot be resumed.
            Unreachable: no event has been received within the time limit.
            StatusError: the connection ended with an error event, and it is final.

        """
        if self.is_finished:
            return 0.0  # the last event was complete
        if self._has_progress:
            # The limit starts here, not at the last token: the caller may have paused in between.
            self._policy.reset()
            self._has_progress = False
        if not self._is_resumable:
            reason = f": {error}" if error and str(error) else ""
            raise self._with_text(
                self._error or StreamBroken(f"the stream broke off before its end{reason}")
            ) from error
        try:
            if self._error is not None:
                return self._policy.delay_after_status(self.request, self._error)
            return self._policy.delay_after_disconnect(
                self.request, error or Unreachable("the stream ended before the turn did")
            )
        except CarouselClientError as final:
            raise self._with_text(final) from error

    def _start_connection(self, request_id: str | None) -> None:
        self._decoder, self._request_id = EventDecoder(), request_id
        self._error: StatusError | None = None

    @property
    def _is_resumable(self) -> bool:
        return self._session_id is not None or not self._texts

    def _take(self, event: ServerSentEvent) -> Iterator[Token]:
        try:
            body: dict[str, Any] = json.loads(event.data)
            if body.get("error"):
                self._take_error(error_from_event(body, self._request_id))
                return
            token = Token.from_json(body["token"], body.get("top_tokens"), event.id or None)
            is_last = body["generated_text"] is not None
            result = GenerationResult.from_json(body) if is_last else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._with_text(
                UnexpectedResponse(f"an event is not one of Carousel's: {event.data[:200]!r}")
            ) from error
        if event.id and not self._is_new(event.id):
            if is_last and self._last_id == event.id:  # the end alone, without a token
                self.result, self.is_finished = result, True
            return
        self._last_id, self._repeats_first = event.id, False
        self._texts.append(token.text)
        self._has_progress = True
        self.result, self.is_finished = result, is_last
        yield token

    def _is_new(self, event_id: str) -> bool:
        """Whether an event is the first with its id. Raises PositionMismatch for another turn.

        The server repeats no event after a Last-Event-ID; a repeated first request is answered
        from the turn's first event.
        """
        turn, _, position = event_id.rpartition(".")
        if self._turn and turn != self._turn:
            message = f"the stream was of turn {self._turn}; the session's last is {turn}"
            raise self._with_text(
                PositionMismatch(message, status=412, error_type="position_mismatch")
            )
        if int(position) <= self._position:
            return False
        self._turn, self._position = turn, int(position)
        return True

    def _take_error(self, error: StatusError) -> None:
        """Keep a transient error until the connection has ended; raise another one now."""
        if not (error.is_transient and self._is_resumable):
            raise self._with_text(error)
        self._error = error

    def _after_no_content(self) -> float:
        """Handle a 204: the turn has ended, and there are no more events.

        A turn that failed after its last token has no event for that; its first request, sent
        again, is answered with the error.
        """
        if self._first.method == "GET":
            self.is_finished = True
            return 0.0
        if self._repeats_first:
            raise self._with_text(UnexpectedResponse("the turn has ended without a last event"))
        self._repeats_first = True
        return 0.0

    def _with_text(self, error: CarouselClientError) -> CarouselClientError:
        error.text = self.text
        return error
