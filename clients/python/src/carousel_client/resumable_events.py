"""The events of a train job, over all the connections of one reader."""

import json
from collections.abc import Iterator, Mapping

import httpx2

from carousel_client import operations
from carousel_client.errors import UnexpectedResponse, Unreachable, error_from_response
from carousel_client.operations import Request
from carousel_client.retry_policy import STREAM_SILENCE_S, RetryPolicy
from carousel_client.sse import EventDecoder
from carousel_client.train_job_responses import TrainJobEvent


class ResumableEvents:
    """A train job's events, resumed after the last one received; implements `Resumable`."""

    def __init__(self, job_id: str, after: str | None, timeout_s: float) -> None:
        self.is_finished = False
        self._job_id, self._last_id = job_id, after
        self._policy, self._decoder = RetryPolicy(timeout_s), EventDecoder()
        self._has_progress = False

    @property
    def request(self) -> Request:
        """The request for the events after the last one received."""
        return operations.train_job_events(self._job_id, self._last_id)

    @property
    def timeout(self) -> httpx2.Timeout:
        """The limits of the next connection."""
        return self._policy.timeout(STREAM_SILENCE_S)

    def start_response(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take a response's head; return whether its body is a stream.

        Raises:
            UnexpectedResponse: the status is 200, and the body is no stream of events.

        """
        self._decoder = EventDecoder()
        if status == 200 and not headers.get("content-type", "").startswith("text/event-stream"):
            raise UnexpectedResponse("the response is not a stream of events")
        return status == 200

    def feed(self, chunk: bytes) -> Iterator[TrainJobEvent]:
        """Yield the events that a chunk of the body completes."""
        for event in self._decoder.feed(chunk):
            if self.is_finished:
                return
            try:
                job_event = TrainJobEvent(event.id, event.name, json.loads(event.data))
            except ValueError as error:
                raise UnexpectedResponse(
                    f"an event is not one of Carousel's: {event.data[:200]!r}"
                ) from error
            self._last_id, self._has_progress = event.id, True
            self.is_finished = event.name == "done"
            yield job_event

    def delay_after_status(self, status: int, headers: Mapping[str, str], content: bytes) -> float:
        """Return the seconds to wait after a response without a stream. Raises a final error."""
        if status == 204:  # no more events
            self.is_finished = True
            return 0.0
        error = error_from_response(status, headers, content)
        return self._policy.delay_after_status(self.request, error)

    def delay_after_disconnect(self, error: Exception | None) -> float:
        """Return the seconds to wait after a connection has ended. Raises Unreachable."""
        if self.is_finished:
            return 0.0
        if self._has_progress:
            self._policy.reset()
            self._has_progress = False
        error = error or Unreachable("the stream ended before the job did")
        return self._policy.delay_after_disconnect(self.request, error)
