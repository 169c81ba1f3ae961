"""One stream of events across all the connections that it takes."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2

from service.client import calls
from service.client.attempts import Attempts
from service.client.calls import Request
from service.client.errors import (
    CarouselError,
    PositionMismatch,
    Refused,
    StreamBroken,
    UnknownReply,
    Unreachable,
    refusal_of_event,
    refusal_of_reply,
)
from service.client.event_stream import Event, EventParser
from service.client.replies import Generation, Token

SILENCE_S = 35.0
"""The server pings a silent stream every 15 s: one of which two pings are missing is broken."""


class Reading:
    """What a stream has said, and what to send to go on. It reads no connection itself.

    A turn of a session goes on after the last event that came whole: through the session's events,
    or, before the first one, by its own request again, whose key leads to the same turn. Every
    token comes once, in order. Source: docs/reference/http.md, "Sessions".
    """

    def __init__(self, first: Request, session_id: str | None, limit_s: float) -> None:
        self.generation: Generation | None = None
        self.is_over = False
        self._first, self._session_id = first, session_id
        self._attempts = Attempts(limit_s)
        self._said: list[str] = []
        self._last_id = ""
        self._turn, self._position = "", -1  # of the last event
        self._begins_again = self._has_come = False
        self._open(None)

    @property
    def text(self) -> str:
        """All that has been said."""
        return "".join(self._said)

    @property
    def request(self) -> Request:
        """What to send now."""
        if self._session_id is None or not self._last_id or self._begins_again:
            return self._first
        return calls.events(self._session_id, self._last_id)

    @property
    def timeout(self) -> httpx2.Timeout:
        """How long a connection may say nothing."""
        return self._attempts.timeout(SILENCE_S)

    def begin(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take a reply's head; return whether its body is a stream, and not to be read whole.

        Raises:
            UnknownReply: it is of something else.

        """
        self._open(headers.get("x-request-id"))
        if status != 200:
            return False
        if not headers.get("content-type", "").startswith("text/event-stream"):
            raise self._with_text(UnknownReply("the reply is not a stream of events"))
        return True

    def feed(self, piece: bytes) -> Iterator[Token]:
        """The tokens that a piece of the body completes. Raises what the server ends with."""
        for event in self._parser.feed(piece):
            if not self.is_over:
                yield from self._take(event)

    def refused(self, status: int, headers: Mapping[str, str], content: bytes) -> float:
        """How long to wait after a reply that was no stream. Raises it where it is final."""
        if status == 204:
            return self._nothing_to_come()
        refusal = refusal_of_reply(status, headers, content)
        try:
            return self._attempts.after_refusal(self.request, refusal)
        except CarouselError as error:
            raise self._with_text(error) from None

    def broken(self, loss: Exception | None) -> float:
        """How long to wait after a connection has ended before the stream did.

        Raises:
            StreamBroken: nothing can go on with it.
            Unreachable: nothing has come for too long.
            Refused: the server's last word, if that was an error.

        """
        if self.is_over:
            return 0.0  # the last event was there, only the connection's end was not
        if self._has_come:
            # From now, not from the last token: the caller may have been long about that.
            self._attempts.restart()
            self._has_come = False
        if not self._can_go_on:
            reason = f": {loss}" if loss and str(loss) else ""
            raise self._with_text(
                self._error or StreamBroken(f"the stream broke off before its end{reason}")
            ) from loss
        try:
            if self._error is not None:
                return self._attempts.after_refusal(self.request, self._error)
            return self._attempts.after_loss(
                self.request, loss or Unreachable("the stream ended before the turn did")
            )
        except CarouselError as error:
            raise self._with_text(error) from loss

    # --

    def _open(self, request_id: str | None) -> None:
        self._parser, self._request_id = EventParser(), request_id
        self._error: Refused | None = None

    @property
    def _can_go_on(self) -> bool:
        return self._session_id is not None or not self._said

    def _take(self, event: Event) -> Iterator[Token]:
        try:
            body: dict[str, Any] = json.loads(event.data)
            if body.get("error"):
                self._end_with(refusal_of_event(body, self._request_id))
                return
            token = Token.of(body["token"], body.get("top_tokens"), event.id or None)
            is_last = body["generated_text"] is not None
            generation = Generation.of(body) if is_last else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._with_text(
                UnknownReply(f"an event is not one of Carousel's: {event.data[:200]!r}")
            ) from error
        if event.id and not self._is_new(event.id):
            if is_last and self._last_id == event.id:  # the end alone, which brings no token
                self.generation, self.is_over = generation, True
            return
        self._last_id, self._begins_again = event.id, False
        self._said.append(token.text)
        self._has_come = True
        self.generation, self.is_over = generation, is_last
        yield token

    def _is_new(self, event_id: str) -> bool:
        """Whether an event has not come before. Raises PositionMismatch where the turn is another.

        The server repeats none after a Last-Event-ID; a turn that is asked for again by its own
        request begins at its first.
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

    def _end_with(self, refusal: Refused) -> None:
        """Keep an error that passes until the connection is over; raise one that does not."""
        if not (refusal.is_passing and self._can_go_on):
            raise self._with_text(refusal)
        self._error = refusal

    def _nothing_to_come(self) -> float:
        """After a 204: the turn is over, and its last event was shown or never will be.

        A turn that failed at its last token is such a one; asked for again, it says how it ended.
        """
        if self._first.method == "GET":
            self.is_over = True
            return 0.0
        if self._begins_again:
            raise self._with_text(UnknownReply("the turn is over and does not say how it ended"))
        self._begins_again = True
        return 0.0

    def _with_text(self, error: CarouselError) -> CarouselError:
        error.text = self.text
        return error
