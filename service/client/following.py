"""A train job's events across all the connections that they take."""

import json
from collections.abc import Iterator, Mapping

import httpx2

from service.client import calls
from service.client.attempts import Attempts
from service.client.calls import Request
from service.client.errors import UnknownReply, Unreachable, refusal_of_reply
from service.client.event_stream import EventParser
from service.client.job_replies import JobEvent
from service.client.reading import SILENCE_S


class JobReading:
    """What has been told of a job, and what to send to hear the rest. It reads no connection."""

    def __init__(self, job_id: str, after: str | None, limit_s: float) -> None:
        self.is_over = False
        self._job_id, self._last_id = job_id, after
        self._attempts, self._parser = Attempts(limit_s), EventParser()
        self._has_come = False

    @property
    def request(self) -> Request:
        """What to send now."""
        return calls.job_events(self._job_id, self._last_id)

    @property
    def timeout(self) -> httpx2.Timeout:
        """How long a connection may say nothing."""
        return self._attempts.timeout(SILENCE_S)

    def begin(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take a reply's head; return whether its body is a stream. Raises UnknownReply."""
        self._parser = EventParser()
        if status == 200 and not headers.get("content-type", "").startswith("text/event-stream"):
            raise UnknownReply("the reply is not a stream of events")
        return status == 200

    def feed(self, piece: bytes) -> Iterator[JobEvent]:
        """The events that a piece of the body completes."""
        for event in self._parser.feed(piece):
            if self.is_over:
                return
            try:
                told = JobEvent(event.id, event.name, json.loads(event.data))
            except ValueError as error:
                message = f"an event is not one of Carousel's: {event.data[:200]!r}"
                raise UnknownReply(message) from error
            self._last_id, self._has_come = event.id, True
            self.is_over = event.name == "done"
            yield told

    def refused(self, status: int, headers: Mapping[str, str], content: bytes) -> float:
        """How long to wait after a reply that was no stream. Raises it where it is final."""
        if status == 204:  # nothing comes any more
            self.is_over = True
            return 0.0
        refusal = refusal_of_reply(status, headers, content)
        return self._attempts.after_refusal(self.request, refusal)

    def broken(self, loss: Exception | None) -> float:
        """How long to wait after a connection that has ended early. Raises Unreachable."""
        if self.is_over:
            return 0.0
        if self._has_come:
            self._attempts.restart()
            self._has_come = False
        loss = loss or Unreachable("the stream ended before the job did")
        return self._attempts.after_loss(self.request, loss)
