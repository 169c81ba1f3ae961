"""A closed loop of clients on raw sockets: each sends its request again after each reply.

The clients share the machine with the server, so they do as little as possible. Processor time is
measured on both sides: it says what a character costs where other work disturbs the rates.
"""

import contextlib
import json
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import psutil

from bench.machine import cpu_s, server_processes
from bench.reply import ReplyReader

CHARACTERS = 256
WARM_UP_S, MEASURE_S = 1.5, 6.0


@dataclass(frozen=True, slots=True)
class Request:
    """A request that a client repeats, and what each of its replies must have."""

    path: str
    body: dict[str, Any]
    characters: int
    events: int  # 0: the reply is whole
    key: str = ""  # the secret that it is sent with


@dataclass(frozen=True, slots=True)
class Load:
    """The measurements of a closed loop; a whole reply has neither first events nor gaps."""

    clients: int
    characters_per_s: float
    requests_per_s: float
    server_cpu_us: float  # of the processes that listen, for each character
    client_cpu_us: float  # of this process, likewise
    reply_p50_ms: float | None
    reply_p99_ms: float | None
    first_event_p50_ms: float | None
    first_event_p99_ms: float | None
    delivery_gap_p50_ms: float | None
    delivery_gap_p99_ms: float | None


@dataclass(slots=True)
class Tally:
    """What clients have received so far."""

    characters: float = 0
    replies_s: list[float] = field(default_factory=list)
    first_events_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)


class Connection:
    """One client: a request, and a connection that stays open as long as the server lets it."""

    def __init__(
        self, port: int, request: Request, selector: selectors.BaseSelector | None = None
    ) -> None:
        """Connect, and send nothing yet; the selector watches what comes."""
        content = json.dumps(request.body).encode()
        head = f"POST {request.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        head += f"Authorization: Bearer {request.key}\r\n" if request.key else ""
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self._bytes, self._request, self._reader = head.encode() + content, request, ReplyReader()
        self._port, self._selector = port, selector
        self._asked_s = self._last_s = 0.0
        self._replies, self._is_awaited = 0, True
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _open(self) -> None:
        self._replies = 0  # of this connection
        self._socket = socket.create_connection(("127.0.0.1", self._port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._selector is not None:
            self._selector.register(self._socket, selectors.EVENT_READ, self)

    def _close(self) -> None:
        if self._selector is not None:
            self._selector.unregister(self._socket)
        self._socket.close()

    def ask(self) -> None:
        """Send the request."""
        self._reader.on_message_begin()
        self._asked_s, self._is_awaited = time.perf_counter(), True
        self._send()

    def _send(self) -> None:
        with contextlib.suppress(ConnectionError):  # a closed one is noticed by the next read
            self._socket.sendall(self._bytes)

    def _receive(self) -> bytes:
        with contextlib.suppress(ConnectionError):
            return self._socket.recv(1 << 18)
        return b""

    def read(self, tally: Tally) -> bool:
        """Read what has come, and return whether the reply is complete.

        A server may close a connection between two replies: then the request goes out on a new
        one. Raises ConnectionError where it closes one within a reply or before the first, and
        ValueError where the reply is none of success or has not its events.
        """
        data = self._receive()
        now_s = time.perf_counter()
        if not data:
            if not self._replies or not self._is_awaited:
                raise ConnectionError("the server closed a connection before the reply's end")
            self._close()
            self._open()
            self._reader = ReplyReader()
            self._send()
            return False
        self._is_awaited = False
        reader, request = self._reader, self._request
        before = reader.events
        reader.feed(data)
        if request.events and reader.events > before:
            tally.characters += request.characters * (reader.events - before) / request.events
            if before:
                tally.gaps_s.append(now_s - self._last_s)
            else:
                tally.first_events_s.append(now_s - self._asked_s)
            self._last_s = now_s
        if not reader.is_complete:
            return False
        if reader.status != 200 or reader.events != request.events:
            found = f"status {reader.status}, {reader.events} events of {request.events}"
            raise ValueError(f"{found}: {reader.last_piece[-300:]!r}")
        if not request.events:
            tally.characters += request.characters
        tally.replies_s.append(now_s - self._asked_s)
        self._replies += 1
        return True

    def first_event_s(self) -> float:
        """Send the request and read its reply; return the seconds to the first event."""
        return self._reply().first_events_s[0]

    def reply_s(self) -> float:
        """Send the request and read its reply; return the seconds to its end."""
        return self._reply().replies_s[0]

    def _reply(self) -> Tally:
        tally = Tally()
        self.ask()
        while not self.read(tally):
            pass
        return tally


def closed_loop(
    port: int,
    requests: Sequence[Request],
    *,
    warm_up_s: float = WARM_UP_S,
    measure_s: float = MEASURE_S,
    processes: Sequence[psutil.Process] | None = None,
) -> Load:
    """Keep one client busy for each request for a while, and return the measurements.

    The server's time is that of `processes`, else of what listens on the port.
    """
    processes = server_processes(port) if processes is None else processes
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for request in requests:
            stack.enter_context(Connection(port, request, selector)).ask()
        serve(selector, Tally(), warm_up_s)
        tally, began_s = Tally(), time.perf_counter()
        server_s, client_s = cpu_s(processes), time.process_time()
        serve(selector, tally, measure_s)
        elapsed_s = time.perf_counter() - began_s
        server_s, client_s = cpu_s(processes) - server_s, time.process_time() - client_s
    return Load(
        len(requests),
        tally.characters / elapsed_s,
        len(tally.replies_s) / elapsed_s,
        1e6 * server_s / max(1, tally.characters),
        1e6 * client_s / max(1, tally.characters),
        *(
            quantile_ms(times_s, q)
            for times_s in (tally.replies_s, tally.first_events_s, tally.gaps_s)
            for q in (0.5, 0.99)
        ),
    )


def serve(selector: selectors.BaseSelector, tally: Tally, seconds: float) -> None:
    """Read what comes for a while, and send each request again after its reply."""
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        for key, _ in selector.select(1.0):
            connection: Connection = key.data
            if connection.read(tally):
                connection.ask()


@dataclass(frozen=True, slots=True)
class Work:
    """What a fixed number of requests took."""

    characters: float
    wall_s: float
    server_cpu_s: float


class ClientGroup:
    """Clients whose connections stay open, so that short measurements by turns begin warm.

    Each measurement has the same requests, each to its end: nothing that one has left runs in
    the next.
    """

    def __init__(self, port: int, requests: Sequence[Request]) -> None:
        """Connect; nothing is sent yet."""
        self._selector, self._stack = selectors.DefaultSelector(), contextlib.ExitStack()
        self._processes = server_processes(port)
        self._connections = [
            self._stack.enter_context(Connection(port, request, self._selector))
            for request in requests
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._selector.close()

    def work(self, repeats: int) -> Work:
        """Have each client send its request so often, one after the other. Raises as `read`."""
        tally, left = Tally(), dict.fromkeys(self._connections, repeats)
        began_s, server_s = time.perf_counter(), cpu_s(self._processes)
        for connection in self._connections:
            connection.ask()
        while left:
            for key, _ in self._selector.select(1.0):
                one: Connection = key.data
                if not one.read(tally):
                    continue
                left[one] -= 1
                if left[one]:
                    one.ask()
                else:
                    del left[one]
        wall_s = time.perf_counter() - began_s
        return Work(tally.characters, wall_s, cpu_s(self._processes) - server_s)


def quantile_ms(times_s: Sequence[float], q: float) -> float | None:
    """Return a quantile in milliseconds, None of no times."""
    ordered = sorted(times_s)
    return 1e3 * ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


def streaming(model: str, seed: int, characters: int = CHARACTERS, **more: object) -> Request:
    """Return a request of Carousel's for a stream, an event a character."""
    parameters = {"max_new_tokens": characters, "do_sample": True, "temperature": 0.8, "seed": seed}
    body = {"inputs": "ROMEO:", "model": model, "parameters": parameters | more}
    return Request("/generate_stream", body, characters, characters)


def whole(model: str, seed: int, characters: int) -> Request:
    """Return the same request for a whole reply."""
    return Request("/generate", streaming(model, seed, characters).body, characters, 0)


def run(port: int, model: str, streams: int, **more: object) -> Load:
    """Keep `streams` concurrent streams running for a while and return the measurements.

    `more` are additional parameters, with which each text must have 256 characters.
    """
    return closed_loop(
        port, [streaming(model, seed, CHARACTERS, **more) for seed in range(streams)]
    )


def table_row(streams: int, way: str, loads: Sequence[Load], first: Sequence[Load]) -> str:
    """Return a row of a table: the medians of a way's rounds, and its ratio to the first way."""
    pairs = zip(loads, first, strict=True)
    ratio = statistics.median(one.characters_per_s / other.characters_per_s for one, other in pairs)
    characters = statistics.median(load.characters_per_s for load in loads)
    cpu = statistics.median(load.server_cpu_us for load in loads)
    first_event = statistics.median(load.first_event_p50_ms or 0.0 for load in loads)
    return (
        f"| {streams} | {way} | {characters:,.0f} | {ratio:.2f} | {cpu:.1f} | {first_event:.1f} |"
    )


def main() -> None:
    """`python -m bench.load 8000 seed-int8 64` prints a Load as JSON."""
    print(json.dumps(asdict(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))))


if __name__ == "__main__":
    main()
