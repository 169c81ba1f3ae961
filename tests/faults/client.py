"""A client that reads event streams step by step, and notes where they broke."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.process import Server

LIMIT_S = 30.0
Tokens = list[tuple[int, int, float]]
"""Position after it, token id and logprob, of every token that a client received."""


@dataclass(frozen=True, slots=True)
class Event:
    id: str | None
    data: dict[str, Any]

    @property
    def position(self) -> int:
        assert self.id is not None
        return int(self.id.split(".")[2])


class Stream:
    """An event stream that is read step by step."""

    def __init__(
        self,
        server: Server,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        receive_bytes: int | None = None,
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
        if receive_bytes is not None:
            self._connection.sock = small = socket.socket()
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            small.settimeout(LIMIT_S)
            small.connect(("127.0.0.1", server.port))
        content = None if body is None else json.dumps(body)
        all_headers = {"Content-Type": "application/json"} | (headers or {})
        try:
            self._connection.request("GET" if body is None else "POST", path, content, all_headers)
        except BaseException:
            self._connection.close()
            raise
        self._reply: http.client.HTTPResponse | None = None
        self.is_broken = False  # the connection ended before the stream did
        self.events: list[Event] = []  # all that have been read
        self.first_event_s: float | None = None  # when the first one came, of the monotonic clock
        self.last_event_s: float | None = None
        self.longest_gap_s = 0.0  # between two events

    @property
    def status(self) -> int:
        return self._opened().status

    def take(self, n: int) -> list[Event]:
        """Read the next `n` events, or as many as there are."""
        found: list[Event] = []
        last_id, end = None, time.monotonic() + LIMIT_S
        try:
            while len(found) < n and (line := self._opened().readline()):
                assert time.monotonic() < end, "the stream has not ended"
                if line.startswith(b"id: "):
                    last_id = line[4:].strip().decode()
                elif line.startswith(b"data: "):
                    found.append(Event(last_id, json.loads(line[6:])))
                    self._note_time()
                    last_id = None
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            self.is_broken = True  # perhaps within an event, which is dropped
        self.events += found
        return found

    def _note_time(self) -> None:
        now_s = time.monotonic()
        if self.last_event_s is not None:
            self.longest_gap_s = max(self.longest_gap_s, now_s - self.last_event_s)
        self.first_event_s, self.last_event_s = self.first_event_s or now_s, now_s

    def rest(self) -> list[Event]:
        """Read every event up to the end, or to where the connection breaks."""
        return self.take(1 << 30)

    def skip(self) -> list[Event]:
        """As `rest`, but parse only the last two events."""
        pieces = []
        with contextlib.suppress(OSError, http.client.HTTPException):
            while piece := self._opened().read1(1 << 16):
                pieces.append(piece)
        found = []
        for text in b"".join(pieces).decode().split("\n\n")[-3:-1]:
            head, _, data = text.rpartition("data: ")
            found.append(Event(head[4:].strip() or None, json.loads(data)))
        self.events += found
        return found

    @property
    def last_id(self) -> str | None:
        return next((event.id for event in reversed(self.events) if event.id), None)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error that the stream has ended with."""
        return self.events[-1].data if self.events and "error" in self.events[-1].data else None

    def close(self) -> None:
        if self._reply is not None:
            self._reply.close()
        self._connection.close()

    def _opened(self) -> http.client.HTTPResponse:
        if self._reply is None:
            self._reply = self._connection.getresponse()
        return self._reply


def tokens_of(*streams: Stream | Sequence[Event]) -> Tokens:
    """The tokens of streams, one after the other."""
    events = [
        event
        for stream in streams
        for event in (stream.events if isinstance(stream, Stream) else stream)
        if "token" in event.data
    ]
    tokens = [event.data["token"] for event in events]
    return [
        (event.position, token["id"], token["logprob"])
        for event, token in zip(events, tokens, strict=True)
    ]
