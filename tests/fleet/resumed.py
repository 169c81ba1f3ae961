"""Turns of sessions that are followed to their ends, wherever their streams break."""

import contextlib
import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.faults.client import Event, Stream, Tokens, tokens_of
from tests.process import Server

LIMIT_S = 180.0
PAUSE_S = 0.2
SEED = 7
PROMPT = "The "


@dataclass
class ResumedStream:
    """One turn: its events, over as many connections as it takes."""

    server: Server
    session: str
    n: int
    turn: int = 0
    events: list[Event] = field(default_factory=list)
    n_breaks: int = 0
    longest_silence_s: float = 0.0  # between two events, a break included
    _reading: Stream | None = None

    @property
    def has_begun(self) -> bool:
        """Whether an event has come."""
        return self._reading is not None and self._reading.first_event_s is not None

    def run(self) -> None:
        """Read until the turn's last event."""
        end = time.monotonic() + LIMIT_S
        broken_s: float | None = None
        while True:
            events, first_event_s = self._read()
            if broken_s is not None and first_event_s is not None:
                self.longest_silence_s = max(self.longest_silence_s, first_event_s - broken_s)
                broken_s = None
            self.events += [event for event in events if event.id is not None]
            if self.events and self.events[-1].data.get("details") is not None:
                return
            assert time.monotonic() < end, f"{self.session} has not ended: {self.events[-1:]}"
            self.n_breaks += 1
            broken_s = broken_s or time.monotonic()
            time.sleep(PAUSE_S)

    @property
    def tokens(self) -> Tokens:
        return tokens_of([event for event in self.events if "token" in event.data])

    def _read(self) -> tuple[list[Event], float | None]:
        """Ask for the turn, or for what is left of it, and read until the connection breaks.

        The second value is when the first event came, by the monotonic clock.
        """
        with contextlib.suppress(OSError, http.client.HTTPException):
            stream = self._again() if self.events else self._begin()
            with contextlib.closing(stream):
                self._reading = stream
                events = stream.rest() if stream.status == 200 else []
                self.longest_silence_s = max(self.longest_silence_s, stream.longest_gap_s)
                return events, stream.first_event_s
        return [], None

    def _begin(self) -> Stream:
        body: dict[str, Any] = {
            "inputs": PROMPT,
            "session_id": self.session,
            "parameters": {"max_new_tokens": self.n, "temperature": 0.8},
        }
        key = f"{self.session}-{self.turn}"
        return Stream(self.server, "/generate_stream", body, {"Idempotency-Key": key})

    def _again(self) -> Stream:
        headers = {"Last-Event-ID": str(self.events[-1].id)}
        return Stream(self.server, f"/sessions/{self.session}/events", None, headers)


@dataclass
class Conversation:
    """Turns of one session, one after the other."""

    server: Server
    session: str
    n: int
    turns: list[ResumedStream] = field(default_factory=list)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Ask for a turn, again and again until it is over."""
        while not self.turns or not is_over():
            self.turns.append(ResumedStream(self.server, self.session, self.n, len(self.turns)))
            self.turns[-1].run()

    @property
    def tokens(self) -> Tokens:
        return [token for turn in self.turns for token in turn.tokens]

    @property
    def n_breaks(self) -> int:
        return sum(turn.n_breaks for turn in self.turns)


def new_session(server: Server, seed: int = SEED) -> str:
    """A session; every one of a seed samples the same."""
    end = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(httpx2.HTTPError):
            reply = httpx2.post(f"{server.url}/sessions", json={"seed": seed}, timeout=30)
            if reply.status_code == 201:
                return str(reply.json()["id"])
        assert time.monotonic() < end, "no session can be made"
        time.sleep(PAUSE_S)
