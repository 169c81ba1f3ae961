"""The price of a request: short whole replies, beside a bare route that validates the same body.

Both servers run at the same time and only one of them has work; they take turns. The processor
time of a request tells more than the rate on a machine that does other work.
"""

import contextlib
import json
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.machine import cpu_s, machine, server_processes
from bench.progress import Progress
from bench.server import server

LENGTHS, CLIENTS, ROUNDS = (1, 16), (1, 16, 64), 3
WARM_UP_S, MEASURE_S = 0.3, 1.5
START_LIMIT_S = 30.0
LONE_STREAMS, STREAM_LENGTH = 300, 9

_HEAD_END, _CHUNK = b"\r\n\r\n", 1 << 16


@dataclass(frozen=True, slots=True)
class Figures:
    """What one server did with one kind of request; times in the unit of their name."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the server's process, for each request


class Client:
    """One connection, which sends its request again after each reply."""

    def __init__(self, port: int, body: Mapping[str, Any], path: str = "/generate") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        content = json.dumps(body)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self._request, self._received = (head + content).encode(), b""
        self._asked_s = 0.0

    def ask(self) -> None:
        """Send the request."""
        self._asked_s = time.perf_counter()
        self.socket.sendall(self._request)

    def read(self) -> float | None:
        """Read what has come; return the seconds that the reply took, or None: it has no end yet.

        Raises ValueError where the reply is none of success.
        """
        self._received += self.socket.recv(_CHUNK)
        head, found, body = self._received.partition(_HEAD_END)
        if not found:
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(self._received[:300])
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return None
        self._received = b""
        return time.perf_counter() - self._asked_s

    def first_event_s(self) -> float:
        """Send the request of a stream; return the seconds to its first event, after its end."""
        self.ask()
        received, first_s = b"", 0.0
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += self.socket.recv(_CHUNK)
            if not first_s and b"data:" in received:
                first_s = time.perf_counter() - self._asked_s
        if not received.startswith(b"HTTP/1.1 200"):
            raise ValueError(received[:300])
        return first_s


def run(port: int, length: int, clients: int) -> Figures:
    """Keep so many clients asking for texts of so many characters for a while."""
    selector = selectors.DefaultSelector()
    each = [Client(port, body_of(length, seed)) for seed in range(clients)]
    for client in each:
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.ask()
    processes, times = server_processes(port), list[float]()
    began_s, is_warm, before_s = time.perf_counter(), False, 0.0
    limit_s = WARM_UP_S
    while (now_s := time.perf_counter()) < began_s + limit_s or not is_warm:
        if not is_warm and now_s >= began_s + limit_s:
            times, is_warm, began_s, limit_s = [], True, now_s, MEASURE_S
            before_s = cpu_s(processes)
        for key, _ in selector.select(1.0):
            took_s = key.data.read()
            if took_s is not None:
                times.append(took_s)
                key.data.ask()
    elapsed_s, used_s = time.perf_counter() - began_s, cpu_s(processes) - before_s
    for client in each:
        client.socket.close()
    times.sort()
    return Figures(
        len(times) / elapsed_s,
        1e3 * times[len(times) // 2],
        1e3 * times[min(len(times) - 1, len(times) * 99 // 100)],
        1e6 * used_s / len(times),
    )


def body_of(length: int, seed: int) -> dict[str, Any]:
    """Return the body of a request for so many characters."""
    parameters = {"max_new_tokens": length, "do_sample": True, "temperature": 0.8, "seed": seed}
    return {"inputs": "ROMEO:", "parameters": parameters}


def lone_stream_ms(port: int, bare: int) -> dict[str, float]:
    """Measure the first event of a lone stream, beside the answer of the bare route."""
    stream = Client(port, body_of(STREAM_LENGTH, 1), "/generate_stream")
    answer = Client(bare, body_of(STREAM_LENGTH, 1))
    events, answers = [], []
    for _ in range(LONE_STREAMS):
        events.append(stream.first_event_s())
        answer.ask()
        took_s = None
        while took_s is None:
            took_s = answer.read()
        answers.append(took_s)
    event_ms, answer_ms = (1e3 * statistics.median(one) for one in (events, answers))
    return {"first_event_ms": event_ms, "answer_ms": answer_ms, "over_ms": event_ms - answer_ms}


def compare(port: int, bare: int, rounds: int, clients: tuple[int, ...]) -> list[dict[str, Any]]:
    """Measure both servers by turns; the figures are the medians of the rounds."""
    rows = []
    n_runs = 2 * rounds * len(clients) * len(LENGTHS)
    progress = Progress("short requests", n_runs, n_runs * (WARM_UP_S + MEASURE_S))
    for length in LENGTHS:
        for n in clients:
            found: defaultdict[str, list[Figures]] = defaultdict(list)
            for _ in range(rounds):
                for name, where in (("bare", bare), ("carousel", port)):
                    found[name].append(run(where, length, n))
                    cpu_us = found[name][-1].cpu_us
                    progress.done(f"{name}, {n} clients, {length} characters: {cpu_us:.0f} µs each")
            median = {name: median_of(each) for name, each in found.items()}
            ours, theirs = median["carousel"], median["bare"]
            rows.append(
                {"characters": length, "clients": n}
                | {name: asdict(one) for name, one in median.items()}
                | {
                    "ratio_of_rates": ours.requests_per_s / theirs.requests_per_s,
                    "ratio_of_p99": ours.p99_ms / theirs.p99_ms,
                }
            )
    return rows


def median_of(each: list[Figures]) -> Figures:
    """Return the median of each figure."""
    columns = zip(*(asdict(one).values() for one in each), strict=True)
    return Figures(*map(statistics.median, columns))


@contextlib.contextmanager
def bare_server() -> Iterator[int]:
    """Serve the bare route on a free port, and yield the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "bench.bare_route", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            until_s = time.monotonic() + START_LIMIT_S
            while time.monotonic() < until_s:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready").close()
                    break
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()


def main() -> None:
    """`python -m bench.short_requests [rounds] [clients …]` prints the figures as JSON."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    clients = tuple(map(int, sys.argv[2:])) or CLIENTS
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "demo").symlink_to(Path("model_store/demo").resolve())
        with server(root, CAROUSEL_LOG_LEVEL="info") as port, bare_server() as bare:
            result = {
                "machine": machine(),
                "requests": compare(port, bare, rounds, clients),
                "lone_stream": lone_stream_ms(port, bare),
            }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
