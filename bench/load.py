"""A closed loop of streaming clients on raw sockets: N streams, one request after another.

The client shares the machine with the server, so it does as little as possible: it reads the
received bytes, counts the events in them and records the time.
"""

import json
import selectors
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

CHARACTERS = 256
WARM_UP_S, MEASURE_S = 1.5, 6.0
EVENT, END = b"data: ", b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Load:
    """The measurements of one run of the closed loop; times in milliseconds."""

    streams: int
    characters_per_s: float
    first_event_p50_ms: float
    first_event_p99_ms: float
    inter_event_p50_ms: float
    inter_event_p99_ms: float
    delivery_gap_p50_ms: float
    delivery_gap_p99_ms: float


@dataclass(slots=True)
class _Tally:
    events: int = 0
    first_event_s: list[float] = field(default_factory=list)
    gaps: list[tuple[float, int]] = field(default_factory=list)  # (seconds, events in the delivery)


class _Client:
    """One connection that sends its request again after each response."""

    def __init__(self, port: int, model: str, parameters: Mapping[str, object]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = json.dumps({"inputs": "ROMEO:", "model": model, "parameters": parameters})
        head = f"POST /generate_stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = (head + body).encode()
        self._tail = b""
        self.ask()

    def ask(self) -> None:
        self._events, self._asked_s, self._last_s = 0, time.perf_counter(), 0.0
        self.socket.sendall(self._request)

    def read(self, tally: _Tally) -> None:
        data = self.socket.recv(1 << 18)
        now_s = time.perf_counter()
        if not data:
            raise ConnectionError("the server closed a connection")
        data = self._tail + data
        n = data.count(EVENT)
        self._tail = data[-len(EVENT) + 1 :]
        if n:
            tally.events += n
            if self._events:
                tally.gaps.append((now_s - self._last_s, n))
            else:
                tally.first_event_s.append(now_s - self._asked_s)
            self._last_s = now_s
            self._events += n
        if data.endswith(END):
            if self._events != CHARACTERS:
                raise ValueError(f"{self._events} events of {CHARACTERS}: {data[-300:]!r}")
            self._tail = b""
            self.ask()


def run(port: int, model: str, streams: int, **more: object) -> Load:
    """Keep `streams` concurrent streams running for a while and return the measurements.

    `more` are additional parameters, with which each text must have 256 characters.
    """
    selector = selectors.DefaultSelector()
    usual = {"max_new_tokens": CHARACTERS, "do_sample": True, "temperature": 0.8} | more
    clients = [_Client(port, model, usual | {"seed": seed}) for seed in range(streams)]
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
    tally, begin_s = _Tally(), time.perf_counter() + WARM_UP_S
    is_warm = False
    while (now_s := time.perf_counter()) < begin_s + MEASURE_S:
        if not is_warm and now_s >= begin_s:
            tally, is_warm, begin_s = _Tally(), True, now_s
        for key, _ in selector.select(1.0):
            key.data.read(tally)
    elapsed_s = time.perf_counter() - begin_s
    for client in clients:
        client.socket.close()
    events = [0.0 for _, n in tally.gaps for _ in range(n - 1)] + [gap for gap, _ in tally.gaps]
    gaps = [gap for gap, _ in tally.gaps]
    return Load(
        streams,
        tally.events / elapsed_s,
        *(1e3 * _quantile(tally.first_event_s, q) for q in (0.5, 0.99)),
        *(1e3 * _quantile(events, q) for q in (0.5, 0.99)),
        *(1e3 * _quantile(gaps, q) for q in (0.5, 0.99)),
    )


def _quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def main() -> None:
    """`python -m bench.load 8000 seed-int8 64` prints a Load as JSON."""
    print(json.dumps(asdict(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))))


if __name__ == "__main__":
    main()
