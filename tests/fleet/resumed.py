"""A session's stream that is followed to its end, wherever it breaks."""

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.faults.client import Event, Stream, Tokens, tokens_of
from tests.process import Server

LIMIT_S = 120.0
PAUSE_S = 0.2


@dataclass
class ResumedStream:
    """One turn: its events, over as many connections as it takes."""

    server: Server
    session: str
    n: int
    events: list[Event] = field(default_factory=list)
    n_breaks: int = 0
    longest_silence_s: float = 0.0  # from a break to the next event

    def run(self) -> None:
        """Read until the turn's last event."""
        stream = self._begin()
        end = time.monotonic() + LIMIT_S
        broken_s: float | None = None
        while True:
            with contextlib.closing(stream):
                events = _read(stream)
            if broken_s is not None and stream.first_event_s is not None:
                self.longest_silence_s = max(
                    self.longest_silence_s, stream.first_event_s - broken_s
                )
                broken_s = None
            self.events += [event for event in events if event.id is not None]
            if self.events and self.events[-1].data.get("details") is not None:
                return
            assert time.monotonic() < end, "the turn has not ended"
            self.n_breaks += 1
            broken_s = broken_s or time.monotonic()
            time.sleep(PAUSE_S)
            stream = self._begin() if not self.events else self._again()

    @property
    def tokens(self) -> Tokens:
        return tokens_of([event for event in self.events if "token" in event.data])

    def _begin(self) -> Stream:
        body: dict[str, Any] = {
            "inputs": "The ",
            "session_id": self.session,
            "parameters": {"max_new_tokens": self.n, "temperature": 0.8},
        }
        return Stream(self.server, "/generate_stream", body, {"Idempotency-Key": self.session})

    def _again(self) -> Stream:
        headers = {"Last-Event-ID": str(self.events[-1].id)}
        return Stream(self.server, f"/sessions/{self.session}/events", None, headers)


def _read(stream: Stream) -> list[Event]:
    try:
        return stream.rest() if stream.status == 200 else []
    except OSError:
        return list(stream.events)


def new_session(server: Server) -> str:
    """A session whose every turn samples the same."""
    end = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(httpx2.HTTPError):
            reply = httpx2.post(f"{server.url}/sessions", json={"seed": 7}, timeout=30)
            if reply.status_code == 201:
                return str(reply.json()["id"])
        assert time.monotonic() < end, "no session can be made"
        time.sleep(PAUSE_S)
