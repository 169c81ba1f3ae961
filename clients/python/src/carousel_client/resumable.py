"""Streams that outlive their connections: of a completion, and of a train job's events."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import httpx2

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
from carousel_client.request import Request, events, url_path
from carousel_client.responses import GenerationResult, Token, TrainJobEvent
from carousel_client.retry_policy import STREAM_SILENCE_S, RetryPolicy
from carousel_client.sse import EventDecoder, ServerSentEvent

T = TypeVar("T")


class Resumable(ABC, Generic[T]):
    """The state of a stream over all its connections. It does no I/O: a transport drives it."""

    def __init__(self, timeout_s: float) -> None:
        self.is_finished = False
        self._policy = RetryPolicy(timeout_s)
        self._has_progress = False

    @property
    def text(self) -> str:
        """The text received so far."""
        return ""

    @property
    @abstractmethod
    def request(self) -> Request:
        """The request to send next."""

    @property
    def timeout(self) -> httpx2.Timeout:
        """The limits of the next connection."""
        return self._policy.timeout(STREAM_SILENCE_S)

    @abstractmethod
    def start_response(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take a response's head; return whether its body is a stream.

        Raises UnexpectedResponse where the status is 200 and the body is no such stream.
        """

    @abstractmethod
    def feed(self, chunk: bytes) -> Iterator[T]:
        """Yield what a chunk of the body completes. Raises an error event's error."""

    def delay_after_status(self, status: int, headers: Mapping[str, str], content: bytes) -> float:
        """Return the seconds to wait after a response without a stream. Raises a final error."""
        if status == 204:
            self._take_no_content()
            return 0.0
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
            # The limit starts here, not at the last event: the caller may have paused in between.
            self._policy.reset()
            self._has_progress = False
        try:
            return self._delay_after_loss(error)
        except CarouselClientError as final:
            raise self._with_text(final) from error

    def _take_no_content(self) -> None:
        """Handle a 204: there are no more events."""
        self.is_finished = True

    def _delay_after_loss(self, error: Exception | None) -> float:
        lost = error or Unreachable("the stream ended before its last event")
        return self._policy.delay_after_disconnect(self.request, lost)

    def _with_text(self, error: CarouselClientError) -> CarouselClientError:
        error.text = self.text
        return error


class _ServerSentEvents(Resumable[T]):
    """A stream whose body is server-sent events."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._decoder = EventDecoder()
        self._request_id: str | None = None

    def start_response(self, status: int, headers: Mapping[str, str]) -> bool:
        self._decoder, self._request_id = EventDecoder(), headers.get("x-request-id")
        if status == 200 and not headers.get("content-type", "").startswith("text/event-stream"):
            raise self._with_text(UnexpectedResponse("the response is not a stream of events"))
        return status == 200

    def feed(self, chunk: bytes) -> Iterator[T]:
        for event in self._decoder.feed(chunk):
            if not self.is_finished:
                yield from self._take(event)

    @abstractmethod
    def _take(self, event: ServerSentEvent) -> Iterator[T]: ...

    def _unexpected(self, event: ServerSentEvent) -> CarouselClientError:
        message = f"an event is not one of Carousel's: {event.data[:200]!r}"
        return self._with_text(UnexpectedResponse(message))


class ResumableEvents(_ServerSentEvents[TrainJobEvent]):
    """A train job's events, resumed after the last one received."""

    def __init__(self, job_id: str, after: str | None, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._path, self._last_id = url_path("train-jobs", job_id, "events"), after

    @property
    def request(self) -> Request:
        """The request for the events after the last one received."""
        return events(self._path, self._last_id)

    def _take(self, event: ServerSentEvent) -> Iterator[TrainJobEvent]:
        try:
            job_event = TrainJobEvent(event.id, event.name, json.loads(event.data))
        except ValueError as error:
            raise self._unexpected(event) from error
        self._last_id, self._has_progress = event.id, True
        self.is_finished = event.name == "done"
        yield job_event


class ResumableStream(_ServerSentEvents[Token]):
    """The tokens received so far, and the request that resumes.

    A session's turn is resumed after the last complete event: through the session's events, or,
    before the first event, by the same request, whose idempotency key selects the same turn. Every
    token is yielded once, in order. Source: docs/reference/http.md, "Sessions".
    """

    def __init__(self, first: Request, session_id: str | None, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.result: GenerationResult | None = None
        self._first, self._session_id = first, session_id
        self._texts: list[str] = []
        self._last_id = ""
        self._turn, self._position = "", -1  # of the last event
        self._repeats_first = False
        self._error: StatusError | None = None  # of this connection

    @property
    def text(self) -> str:
        """The text received so far."""
        return "".join(self._texts)

    @property
    def request(self) -> Request:
        """The first request, or the one for the events after the last one received."""
        if self._session_id is None or not self._last_id or self._repeats_first:
            return self._first
        return events(url_path("sessions", self._session_id, "events"), self._last_id)

    @property
    def _is_resumable(self) -> bool:
        return self._session_id is not None or not self._texts

    def _take(self, event: ServerSentEvent) -> Iterator[Token]:
        try:
            body: dict[str, Any] = json.loads(event.data)
            if body.get("error"):
                error = error_from_event(body, self._request_id)
                if not (error.is_transient and self._is_resumable):
                    raise self._with_text(error)
                self._error = error  # until the connection has ended
                return
            token = Token.from_json(body["token"], body.get("top_tokens"), event.id or None)
            is_last = body["generated_text"] is not None
            result = GenerationResult.from_json(body) if is_last else None
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            raise self._unexpected(event) from wrong
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

    def _take_no_content(self) -> None:
        """Handle a 204: the turn has ended, and there are no more events.

        A turn that failed after its last token has no event for that; its first request, sent
        again, is answered with the error.
        """
        if self._first.method == "GET":
            self.is_finished = True
        elif self._repeats_first:
            raise self._with_text(UnexpectedResponse("the turn has ended without a last event"))
        self._repeats_first = True

    def _delay_after_loss(self, error: Exception | None) -> float:
        event_error, self._error = self._error, None
        if not self._is_resumable:
            reason = f": {error}" if error and str(error) else ""
            raise event_error or StreamBroken(f"the stream broke off before its end{reason}")
        if event_error is not None:
            return self._policy.delay_after_status(self.request, event_error)
        return super()._delay_after_loss(error)
